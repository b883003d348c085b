"""Stage 3, inherit: the child's first weights (paper, parameter inheritance)."""

import numpy as np

from pocketlm.errors import ParentError
from pocketlm.method import pick
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape, check_shape
from pocketlm.stages.inherit.cut import cut
from pocketlm.stages.inherit.layers import LAYER_PICKS
from pocketlm.stages.inherit.neurons import NEURON_SCORES, Indices, choose_units

__all__ = ["LAYER_PICKS", "NEURON_SCORES", "inherit"]


def inherit(
    parent: Checkpoint,
    shape: Shape,
    kept_V: Indices,
    *,
    layers: str = "ends",
    neurons: str = "l2",
    rng: np.random.Generator,
) -> Child:
    """Keep the layers that matter, score their units, keep the best, cut them out.

    `kept_V`: parent token id by child token id, int64, as many as `shape.vocab_size`. `layers` and
    `neurons` are names of LAYER_PICKS and NEURON_SCORES. Raises `RecipeError` for a shape the
    parent does not contain, `ParentError` for token ids its embedding does not have.
    """
    pick_layers = pick(LAYER_PICKS, layers, "[inherit] layers")
    score = pick(NEURON_SCORES, neurons, "[inherit] neurons")
    check_shape(shape, parent.shape)
    _check_tokens(kept_V, shape, parent)
    kept_L = pick_layers(parent.shape.layers, shape.layers)
    scores = score(parent, kept_L, kept_V, rng)
    units = choose_units(scores, parent.shape, shape)
    return cut(parent, shape, kept_L, kept_V, units)


def _check_tokens(kept_V: Indices, shape: Shape, parent: Checkpoint) -> None:
    """The embedding may have more rows than the tokenizer has tokens, never fewer."""
    assert kept_V.size == shape.vocab_size, f"{kept_V.size} kept tokens, {shape.vocab_size} rows"
    if kept_V.max() >= parent.shape.vocab_size:
        raise ParentError(
            f"{parent.folder}: token {kept_V.max()} of the tokenizer has no row in the embedding, "
            f"which has {parent.shape.vocab_size}; is it this parent's tokenizer?"
        )
