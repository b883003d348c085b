"""Which units stay inside the layers (paper, parameter inheritance, intra-layer).

Units are FFN neurons and heads, chosen in each layer, and hidden channels, one set for the whole
model because the residual stream runs through all of it. A unit's importance is taken over every
weight tied to it, biases and norms included: a neuron's gate and up rows and down column, a head's
query rows and output columns (all its rows where one matrix holds queries, keys and values), a
channel's row or column of everything that reads or writes the stream.
Shapes: F neurons, H heads, D channels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pocketlm.method import Method
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.family import Placed, tensors_of
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit.calibration import Indices
from pocketlm.stages.inherit.evidence import Evidence

if TYPE_CHECKING:
    import torch

Importance = NDArray[np.float64]

_CHUNK_VALUES = 2**17  # float64 values at a time: 1 MiB stays in the cache, 3 x faster than 32


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Importance by unit, larger stays; layers are the kept ones, in order."""

    ffn: tuple[Importance, ...]
    heads: tuple[Importance, ...]
    hidden: Importance


@dataclass(frozen=True, kw_only=True)
class Units:
    """What stays, ascending parent indices; layers are the kept ones, in order."""

    ffn: tuple[Indices, ...]
    heads: tuple[Indices, ...]
    kv_heads: tuple[Indices, ...]
    hidden: Indices


NeuronScore = Callable[[Evidence, Sequence[int]], Scores]


def weight_norm(evidence: Evidence, kept_L: Sequence[int], *, power: int) -> Scores:
    """sum |w|^power over the weights of each unit, root taken: L1 or L2 norm.

    Only kept layers and kept vocabulary rows count. Every tensor is read once and summed in
    float64, so neither the order nor the dtype of the file changes a choice.
    """
    parent = evidence.parent
    total = by_unit(parent.shape, kept_L, _power_sums(evidence, kept_L, power))
    return Scores(
        ffn=tuple(ffn_F ** (1 / power) for ffn_F in total.ffn),
        heads=tuple(heads_H ** (1 / power) for heads_H in total.heads),
        hidden=total.hidden ** (1 / power),
    )


def _power_sums(
    evidence: Evidence, kept_L: Sequence[int], power: int
) -> Iterator[tuple[Placed, list[Importance]]]:
    """sum |w|^power along the axes of each tensor that counts, one window of it in memory."""
    import torch

    parent = evidence.parent
    for placed in _scored_tensors(parent, kept_L):
        rows_V = evidence.kept_V if placed.row.axes[0] == "vocab" else np.arange(placed.dims[0])
        along = [np.zeros(rows_V.size), *(np.zeros(size) for size in placed.dims[1:])]
        for places, rows in parent.windows(placed.name, rows_V):
            sums = axis_sums(rows, power)
            along[0][places] = sums[0]
            if placed.dims[1:]:
                along[1] += sums[1]
        parent.check_finite(placed.name, torch.from_numpy(along[0]))
        yield placed, along


def by_unit(
    shape: Shape, layers: Sequence[int], sums: Iterable[tuple[Placed, list[Importance]]]
) -> Scores:
    """Add up each tensor's sums along its axes by the unit they belong to."""
    hidden_D = np.zeros(shape.hidden)
    ffn_LF = {layer: np.zeros(shape.ffn) for layer in layers}
    heads_LH = {layer: np.zeros(shape.heads) for layer in layers}
    for placed, along in sums:
        for axis, sum_ in zip(placed.row.axes, along, strict=True):
            if axis == "hidden":
                hidden_D += sum_
            elif axis == "ffn" and placed.layer is not None:
                ffn_LF[placed.layer] += sum_
            elif axis in ("heads", "qkv_heads") and placed.layer is not None:
                heads_LH[placed.layer] += sum_.reshape(shape.heads, -1).sum(1)
    return Scores(
        ffn=tuple(ffn_LF[layer] for layer in layers),
        heads=tuple(heads_LH[layer] for layer in layers),
        hidden=hidden_D,
    )


def l2_norm(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Root of the sum of squares of all weights of the unit."""
    return weight_norm(evidence, kept_L, power=2)


def l1_norm(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Sum of the sizes of all weights of the unit."""
    return weight_norm(evidence, kept_L, power=1)


def random_units(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Uniform importance: the control."""
    shape, rng = evidence.parent.shape, evidence.rng
    return Scores(
        hidden=rng.random(shape.hidden),
        ffn=tuple(rng.random(shape.ffn) for _ in kept_L),
        heads=tuple(rng.random(shape.heads) for _ in kept_L),
    )


def activation(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Size of what goes into the output matrices, for channels of what comes out of the norms."""
    return _measured(evidence, kept_L, "activation")


def energy(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Root mean square of the output lost with the unit alone; a channel's share of the stream."""
    return _measured(evidence, kept_L, "energy")


def taylor(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Sum of |weight x mean gradient| over all weights of the unit."""
    return _measured(evidence, kept_L, "taylor")


def fisher(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """Squared gradient of a mask on the unit's output, summed over blocks."""
    return _measured(evidence, kept_L, "fisher")


def mask(evidence: Evidence, kept_L: Sequence[int]) -> Scores:
    """How likely a learned gate on the unit is open, all units cut at once (`mask_steps` steps)."""
    return _measured(evidence, kept_L, "mask")


NEURON_SCORES: dict[str, Method[NeuronScore]] = {
    "l2": Method(l2_norm, paper="arXiv 2402.02791, intra-layer: 47.00"),
    "l1": Method(l1_norm, paper="arXiv 2402.02791, intra-layer: 46.06"),
    "taylor": Method(taylor, paper="arXiv 2402.02791, intra-layer: 47.90; arXiv 2305.11627"),
    "fisher": Method(fisher, paper="Kwon et al., arXiv 2204.09656, section 4.1"),
    "mask": Method(
        mask, paper="arXiv 2402.02791, intra-layer: 48.08; arXiv 2310.06694; arXiv 1712.01312"
    ),
    "activation": Method(activation, paper="Minitron, arXiv 2407.14679, section 2.2"),
    "energy": Method(energy, paper="ours: docs/3-inherit.md"),
    "random": Method(random_units, paper="control, ours"),
}


def choose_units(scores: Scores, parent_shape: Shape, shape: Shape) -> Units:
    """The most important units, as many as `shape` has.

    K/V heads rank by the sum over their query heads; query heads rank inside their own group, and
    every group keeps the same number, so that each still finds its keys.
    """
    heads, kv_heads = [], []
    for importance_H in scores.heads:
        grouped_KG = importance_H.reshape(parent_shape.kv_heads, -1)
        kept_K = _largest(grouped_KG.sum(1), shape.kv_heads)
        group, num_kept = grouped_KG.shape[1], shape.heads // shape.kv_heads
        members = [k * group + _largest(grouped_KG[k], num_kept) for k in kept_K]
        kv_heads.append(kept_K)
        heads.append(np.concatenate(members))
    return Units(
        ffn=tuple(_largest(importance_F, shape.ffn) for importance_F in scores.ffn),
        heads=tuple(heads),
        kv_heads=tuple(kv_heads),
        hidden=_largest(scores.hidden, shape.hidden),
    )


def _largest(importance_N: Importance, num_kept: int) -> Indices:
    """Indices of the largest, ascending; among equals the earlier stay."""
    return np.sort(np.argsort(-importance_N, kind="stable")[:num_kept]).astype(np.int64)


def _measured(evidence: Evidence, kept_L: Sequence[int], name: str) -> Scores:
    """The statistic of that name, of the kept layers."""
    layers = list(kept_L)
    return Scores(
        ffn=tuple(evidence.statistic(f"ffn.{name}")[layers]),
        heads=tuple(evidence.statistic(f"heads.{name}")[layers]),
        hidden=evidence.statistic(f"hidden.{name}"),
    )


def _scored_tensors(parent: Checkpoint, kept_L: Sequence[int]) -> Iterator[Placed]:
    kept = set(kept_L)
    for placed in tensors_of(parent.shape):
        if placed.layer is None or placed.layer in kept:
            yield placed


def axis_sums(tensor: "torch.Tensor", power: int) -> list[Importance]:
    """sum |w|^power for each index of each axis, float64, a chunk of rows at a time."""
    import torch

    if tensor.ndim == 1:
        return [_powers(tensor, power).numpy()]
    row_sums = torch.zeros(tensor.shape[0], dtype=torch.float64)
    column_sums = torch.zeros(tensor.shape[1], dtype=torch.float64)
    step = max(1, _CHUNK_VALUES // tensor.shape[1])
    for start in range(0, tensor.shape[0], step):
        chunk = _powers(tensor[start : start + step], power)
        row_sums[start : start + step] = chunk.sum(1)
        column_sums += chunk.sum(0)
    return [row_sums.numpy(), column_sums.numpy()]


def _powers(values: "torch.Tensor", power: int) -> "torch.Tensor":
    import torch

    return values.to(torch.float64, copy=True).abs_().pow_(power)
