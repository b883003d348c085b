"""Stage 3, inherit: the child's first weights (paper, parameter inheritance)."""

from dataclasses import replace
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import ParentError, RecipeError
from pocketlm.method import pick
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape, check_shape
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit.calibration import Calibration, Indices
from pocketlm.stages.inherit.evidence import Evidence, decided, learns_masks, needs_blocks
from pocketlm.stages.inherit.hidden import HIDDEN_CUTS
from pocketlm.stages.inherit.layers import LAYER_PICKS, choose_layers, silence_copies
from pocketlm.stages.inherit.masks import learn_masks, target_of
from pocketlm.stages.inherit.measure import measure
from pocketlm.stages.inherit.neurons import NEURON_SCORES, choose_units
from pocketlm.stages.inherit.norms import correct_norms
from pocketlm.stages.inherit.refit import REFITS
from pocketlm.tables import build_table

__all__ = [
    "HIDDEN_CUTS",
    "LAYER_PICKS",
    "NEURON_SCORES",
    "REFITS",
    "Calibration",
    "Evidence",
    "inherit",
    "inherit_unread",
    "learn_masks",
    "learns_masks",
    "measure",
    "needs_blocks",
]


def inherit(
    parent: Checkpoint,
    shape: Shape,
    kept_V: Indices,
    *,
    rng: np.random.Generator,
    calibration: Blocks | Calibration | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Child:
    """Keep the layers that matter, score their units, keep the best, cut them out, mend.

    `kept_V`: parent token id by child token id, int64, as many as `shape.vocab_size`;
    `calibration`: training text in child ids, or what `measure` made of it, for the methods that
    look at text; `settings`: keys of `[inherit]`. Raises `RecipeError` for a wrong setting or a
    shape the parent does not contain, `ParentError` for token ids its embedding does not have,
    `CorpusError` for too little text.
    """
    return inherit_unread(
        parent, shape, kept_V, rng=rng, calibration=calibration, progress=progress, **settings
    ).held()


def inherit_unread(
    parent: Checkpoint,
    shape: Shape,
    kept_V: Indices,
    *,
    rng: np.random.Generator,
    calibration: Blocks | Calibration | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Child:
    """What `inherit` returns, for `save_child`: no tensor is read before it is written.

    Only `hidden = "rotate"` and `refit` hold the child. Where nothing but the cut decides its
    numbers it has the parent's dtype, of which float32 is an exact copy. A tensor with nan or inf
    raises `ParentError` when it is read.
    """
    table = build_table(InheritTable, settings, "[inherit]")
    table = decided(table, shape.family, has_text=calibration is not None)
    score = pick(NEURON_SCORES, table.neurons, "[inherit] neurons")
    narrow = pick(HIDDEN_CUTS, table.hidden, "[inherit] hidden")
    refit = pick(REFITS, table.refit, "[inherit] refit")
    check_shape(shape, parent.shape)
    _check_tokens(kept_V, shape, parent)
    if isinstance(calibration, Blocks):
        calibration = measure(parent, kept_V, calibration, table, progress=progress)
    evidence = Evidence(
        parent=parent, kept_V=kept_V, rng=rng, calibration=calibration, progress=progress
    )
    evidence = _with_masks(evidence, shape, table)
    kept_L = choose_layers(table.layers, evidence, shape.layers)
    units = choose_units(score(evidence, kept_L), parent.shape, shape)
    made = narrow(evidence, shape, kept_L, units)
    if isinstance(table.layers, str):
        made = replace(made, child=silence_copies(made.child, kept_L))
    if table.norm_energy and shape.hidden < parent.shape.hidden:
        made = replace(made, child=correct_norms(evidence, made))
    every = tuple(range(parent.shape.layers))
    nothing_cut = kept_L == every and _body(shape) == _body(parent.shape)
    return made.child if nothing_cut else refit(evidence, made)


def _with_masks(evidence: Evidence, shape: Shape, table: InheritTable) -> Evidence:
    """`evidence` with the masks that `table` asks for, learned unless they are there already."""
    if not learns_masks(table):
        return evidence
    found = evidence.measured.statistics.get("mask.target")
    if found is None:
        return replace(evidence, calibration=learn_masks(evidence, shape, table))
    if not np.array_equal(found, target_of(shape)):
        raise RecipeError(
            f"[inherit] calibration: its masks are for layers, hidden, heads, kv_heads, ffn = "
            f"{found.tolist()}, the child has {target_of(shape).tolist()}"
        )
    return evidence


def _body(shape: Shape) -> Shape:
    """What the layers are, whatever the vocabulary."""
    return replace(shape, vocab_size=1, tied=True)


def _check_tokens(kept_V: Indices, shape: Shape, parent: Checkpoint) -> None:
    """The embedding may have more rows than the tokenizer has tokens, never fewer."""
    assert kept_V.size == shape.vocab_size, f"{kept_V.size} kept tokens, {shape.vocab_size} rows"
    if kept_V.max() >= parent.shape.vocab_size:
        raise ParentError(
            f"{parent.folder}: token {kept_V.max()} of the tokenizer has no row in the embedding, "
            f"which has {parent.shape.vocab_size}; is it this parent's tokenizer?"
        )
