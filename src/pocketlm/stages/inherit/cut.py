"""Cut the child out of the parent, tensor by tensor (paper, parameter inheritance).

Each tensor is mapped from its file, indexed along its axes and copied to float32; then the next.
Memory stays near the child plus one tensor, whatever the parent's size. Indices ascend, so at the
parent's own shape every tensor is the parent's, bit for bit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
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
    of a tied parent gets the one table twice.
    """
    embedding = load_family(shape.family).embedding
    tensors: dict[str, torch.Tensor] = {}
    for placed in tensors_of(shape):
        if placed.row.part == "head" and parent.shape.tied:
            tensors[placed.name] = tensors[embedding].clone()
            continue
        source = placed.name
        if placed.layer is not None:
            source = placed.row.name.format(layer=kept_L[placed.layer])
        kept = _kept_entries(placed.layer, kept_V, units, shape.head_dim)
        kept["shortcut"] = np.arange(shape.shortcut)
        tensors[placed.name] = _take(parent.read(source), [kept[axis] for axis in placed.row.axes])
    config = remap_token_ids(explicit_config(parent.config), new_ids_of(kept_V.tolist()))
    return Child(config=config_with(config, shape, kept_L), tensors=tensors)


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


def _take(tensor: "torch.Tensor", indices: Sequence[Indices]) -> "torch.Tensor":
    """The entries at `indices` of each axis, a float32 copy."""
    import torch

    for axis, kept in enumerate(indices):
        tensor = tensor.index_select(axis, torch.from_numpy(kept))
    return tensor.to(torch.float32)
