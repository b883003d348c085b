"""The whole parent in memory, over the vocabulary that stays: for gradients and for searches."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
from pocketlm.model.cost import count_params
from pocketlm.stages.inherit.calibration import Indices
from pocketlm.stages.inherit.cut import cut
from pocketlm.stages.inherit.neurons import Units

if TYPE_CHECKING:
    import torch

BATCH_BLOCKS = 8


def whole_parent(
    parent: Checkpoint, kept_V: Indices, kept_L: tuple[int, ...] | None = None
) -> Child:
    """The parent, float32, with the embedding and head rows of the kept tokens only.

    `kept_L`: its layers, if not all of them.
    """
    layers = tuple(range(parent.shape.layers)) if kept_L is None else kept_L
    shape = replace(parent.shape.with_vocab(kept_V.size), layers=len(layers))
    every = Units(
        ffn=tuple(np.arange(shape.ffn) for _ in layers),
        heads=tuple(np.arange(shape.heads) for _ in layers),
        kv_heads=tuple(np.arange(shape.kv_heads) for _ in layers),
        hidden=np.arange(shape.hidden),
    )
    return cut(parent, shape, layers, kept_V, every).held()


def whole_bytes(parent: Checkpoint, kept_V: Indices, seq_len: int, *, copies: int = 1) -> int:
    """Memory of `copies` of the parent and of one batch's logits, bytes; activations come on top.

    `copies`: 1 to run it, 2 with a gradient beside every weight, 4 with an optimizer's moments.
    """
    logits = BATCH_BLOCKS * seq_len * kept_V.size
    return 4 * (copies * count_params(parent.shape.with_vocab(kept_V.size)) + 2 * logits)


def batches(ids_NT1: Indices) -> "list[torch.Tensor]":
    """The blocks in order, a few at a time."""
    import torch

    parts = torch.from_numpy(ids_NT1).split(BATCH_BLOCKS)  # type: ignore[no-untyped-call]  # torch
    return list(parts)
