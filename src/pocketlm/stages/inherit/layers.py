"""Which layers of the parent stay (paper, parameter inheritance, inter-layer).

The paper skips layers of trained models: the first two or three and the last few matter most, the
middle is redundant.
"""

from collections.abc import Callable

from pocketlm.method import Method

_END_RUN = 3  # paper: the first two or three layers and the last few are critical

LayerPick = Callable[[int, int], tuple[int, ...]]


def ends(num_parent: int, num_child: int) -> tuple[int, ...]:
    """Up to three layers at each end (a third of the child's at most), the middle thinned evenly.

    The first layer always stays, the last from two layers on. Returns ascending parent layers.
    """
    run = max(1, min(_END_RUN, num_child // 3))
    if num_child < 2 * run:
        return tuple(range(num_child))
    num_middle, kept_middle = num_parent - 2 * run, num_child - 2 * run
    middle = ((2 * i + 1) * num_middle // (2 * kept_middle) for i in range(kept_middle))
    return (*range(run), *(run + i for i in middle), *range(num_parent - run, num_parent))


def uniform(num_parent: int, num_child: int) -> tuple[int, ...]:
    """Evenly spaced from the first to the last layer."""
    if num_child == 1:
        return (0,)
    steps = num_child - 1
    return tuple((2 * i * (num_parent - 1) + steps) // (2 * steps) for i in range(num_child))


def first(num_parent: int, num_child: int) -> tuple[int, ...]:
    """The first layers, as early truncations did: the control of `ends`."""
    return tuple(range(num_child))


LAYER_PICKS: dict[str, Method[LayerPick]] = {
    "ends": Method(ends, paper="arXiv 2402.02791, parameter inheritance, inter-layer"),
    "uniform": Method(uniform, paper="control, ours"),
    "first": Method(first, paper="control, ours"),
}
