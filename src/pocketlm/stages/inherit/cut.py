"""Cut the child out of the parent, tensor by tensor (paper, parameter inheritance).

Each tensor is mapped from its file and indexed along its axes when it is asked for, so that only
kept rows are read, and never the whole child is held unless someone holds it (`Child.held`).
Indices ascend, so at the parent's own shape every tensor is the parent's, bit for bit.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child, Unread
from pocketlm.model.family import Axis, load_family, tensors_of
from pocketlm.model.network import explicit_config
from pocketlm.model.shape import Shape, config_with
from pocketlm.model.token_ids import new_ids_of, remap_token_ids
from pocketlm.stages.inherit.calibration import Indices
from pocketlm.stages.inherit.neurons import Units

if TYPE_CHECKING:
    import torch


def cut(
    parent: Checkpoint | Child,
    shape: Shape,
    kept_L: Sequence[int],
    kept_V: Indices,
    units: Units,
) -> Child:
    """The child of `shape`: kept layers renumbered, kept units, kept vocabulary rows.

    `kept_L`: parent layer by child layer; `kept_V`: parent token by child token. An untied child
    of a tied parent gets the one table twice. Nothing is read yet, and a tensor has the dtype that
    `parent` names; it raises `ParentError` where it holds nan or inf.
    """
    embedding = load_family(shape.family).embedding
    makers = {}
    for placed in tensors_of(shape):
        source = placed.name
        if placed.row.part == "head" and parent.shape.tied:
            source = embedding
        elif placed.layer is not None:
            source = placed.row.name.format(layer=kept_L[placed.layer])
        kept = _kept_entries(placed.layer, kept_V, units, shape.head_dim)
        kept["shortcut"] = np.arange(shape.shortcut)
        indices = [kept[axis] for axis in placed.row.axes]
        makers[placed.name] = partial(_take, parent, source, indices)
    config = remap_token_ids(explicit_config(parent.config), new_ids_of(kept_V.tolist()))
    return Child(
        config=config_with(config, shape, kept_L), tensors=Unread(makers), dtype=parent.dtype
    )


def _kept_entries(
    layer: int | None, kept_V: Indices, units: Units, head_dim: int
) -> dict[Axis, Indices]:
    """Parent indices along each axis, in tensor entries; outside the layers only two axes."""
    kept: dict[Axis, Indices] = {"vocab": kept_V, "hidden": units.hidden}
    if layer is not None:
        kept["ffn"] = units.ffn[layer]
        kept["heads"] = _entries_of_heads(units.heads[layer], head_dim)
        kept["kv_heads"] = _entries_of_heads(units.kv_heads[layer], head_dim)
        kept["qkv_heads"] = _entries_of_heads(units.heads[layer], 3 * head_dim)
        kept["head_dim"] = np.arange(head_dim)
    return kept


def _entries_of_heads(heads_H: Indices, width: int) -> Indices:
    return (heads_H[:, None] * width + np.arange(width)).reshape(-1)


def _take(parent: Checkpoint | Child, name: str, indices: Sequence[Indices]) -> "torch.Tensor":
    """A copy of the entries at `indices` of each axis of a parent's tensor."""
    import torch

    dtype = getattr(torch, parent.dtype)
    kept = torch.empty([index.size for index in indices], dtype=dtype)
    for places, rows in parent.windows(name, indices[0]):
        entries = rows if rows.ndim == 1 else _columns(rows, indices[1])
        parent.check_finite(name, entries)
        kept[torch.from_numpy(places)] = entries.to(dtype)
    return kept


def _columns(rows: "torch.Tensor", columns: Indices) -> "torch.Tensor":
    """As `index_select`, which takes three times as long for bfloat16."""
    import torch

    if columns.size == rows.shape[1]:
        return rows  # they ascend, so they are all there are
    bits = rows.view(getattr(torch, f"int{8 * rows.element_size()}")).numpy()
    return torch.from_numpy(bits.take(columns, axis=1)).view(rows.dtype)
