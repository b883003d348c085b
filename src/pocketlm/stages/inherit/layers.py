"""Which layers of the parent stay (paper, parameter inheritance, inter-layer).

The paper skips layers of trained models: the first two or three and the last few matter most, the
middle is redundant. A child deeper than its parent gets every layer, some of them twice.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.method import Method, pick
from pocketlm.model.child import Child
from pocketlm.model.family import tensors_of
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.greedy import greedy

if TYPE_CHECKING:
    import torch

_END_RUN = 3  # paper: the first two or three layers and the last few are critical

LayerPick = Callable[[Evidence, int], tuple[int, ...]]


def ends(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """Up to three layers at each end (a third of the child's at most), the middle thinned evenly.

    The first layer always stays, the last from two layers on. Returns ascending parent layers.
    """
    num_parent = evidence.parent.shape.layers
    run = max(1, min(_END_RUN, num_child // 3))
    if num_child < 2 * run:
        return tuple(range(num_child))
    num_middle, kept_middle = num_parent - 2 * run, num_child - 2 * run
    middle = ((2 * i + 1) * num_middle // (2 * kept_middle) for i in range(kept_middle))
    return (*range(run), *(run + i for i in middle), *range(num_parent - run, num_parent))


def uniform(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """Evenly spaced from the first to the last layer."""
    if num_child == 1:
        return (0,)
    last, steps = evidence.parent.shape.layers - 1, num_child - 1
    return tuple((2 * i * last + steps) // (2 * steps) for i in range(num_child))


def first(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """The first layers, as Inheritune keeps them."""
    return tuple(range(num_child))


def block_influence(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """The layers that turn the stream most: largest 1 - cosine between input and output."""
    influence_L = evidence.statistic("influence")
    return tuple(sorted(np.argsort(-influence_L, kind="stable")[:num_child].tolist()))


def contiguous(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """All but one run of layers: the run between whose ends the last token's angle is smallest."""
    distance_LL = evidence.statistic("distance")
    num_parent = len(distance_LL) - 1
    run = num_parent - num_child
    start = int(np.argmin([distance_LL[i, i + run] for i in range(num_child + 1)]))
    return (*range(start), *range(start + run, num_parent))


def mask(evidence: Evidence, num_child: int) -> tuple[int, ...]:
    """The layers whose learned gates are likeliest open (`mask_steps` steps)."""
    chance_L = evidence.statistic("layers.mask")
    return tuple(sorted(np.argsort(-chance_L, kind="stable")[:num_child].tolist()))


LAYER_PICKS: dict[str, Method[LayerPick]] = {
    "ends": Method(ends, paper="arXiv 2402.02791, parameter inheritance, inter-layer"),
    "greedy": Method(greedy, paper="SLEB, arXiv 2402.09025; swaps: EvoPress, arXiv 2410.14649"),
    "block-influence": Method(block_influence, paper="ShortGPT, arXiv 2403.03853"),
    "contiguous": Method(contiguous, paper="arXiv 2403.17887; LLM-Streamline, arXiv 2403.19135"),
    "mask": Method(mask, paper="LLM-Shearing, arXiv 2310.06694; gates: arXiv 1712.01312"),
    "first": Method(first, paper="Inheritune, arXiv 2404.08634"),
    "uniform": Method(uniform, paper="control, ours"),
}


def choose_layers(
    choice: str | Sequence[int], evidence: Evidence, num_child: int
) -> tuple[int, ...]:
    """The parent's layer for each of the child's, by a name of LAYER_PICKS or as listed.

    By name, a child deeper than its parent has layer i from parent layer floor(i L / L_child): each
    layer next to its copies, those spread evenly. Raises `RecipeError`.
    """
    num_parent = evidence.parent.shape.layers
    if not isinstance(choice, str):
        return _listed(tuple(choice), num_parent, num_child)
    pick_layers = pick(LAYER_PICKS, choice, "[inherit] layers")
    if num_child >= num_parent:
        return tuple(i * num_parent // num_child for i in range(num_child))
    return pick_layers(evidence, num_child)


def silence_copies(child: Child, kept_L: Sequence[int]) -> Child:
    """The child whose copies of a layer right before them add nothing to the stream yet.

    Their output matrices are zero, as LLaMA Pro grows depth (arXiv 2401.02415, section 3.2), so
    the grown child computes what its parent does and the copies learn from there.
    """
    silent = {}
    for placed in tensors_of(child.shape):
        layer, row = placed.layer or 0, placed.row
        is_copy = layer > 0 and kept_L[layer] == kept_L[layer - 1]
        if is_copy and row.part != "norms" and row.axes[0] == "hidden":
            silent[placed.name] = partial(_zeros, placed.dims, child.dtype)
    return child.changed(silent) if silent else child


def _zeros(dims: tuple[int, ...], dtype: str) -> "torch.Tensor":
    import torch

    return torch.zeros(dims, dtype=getattr(torch, dtype))


def _listed(kept_L: tuple[int, ...], num_parent: int, num_child: int) -> tuple[int, ...]:
    where = f"[inherit] layers = {list(kept_L)}"
    if len(kept_L) != num_child:
        raise RecipeError(f"{where}: {len(kept_L)} layers; the child has {num_child}")
    outside = [layer for layer in kept_L if not 0 <= layer < num_parent]
    if outside:
        raise RecipeError(
            f"{where}: no layer {outside[0]} in the parent; it has 0 to {num_parent - 1}"
        )
    return kept_L
