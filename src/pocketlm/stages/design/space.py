"""All shapes worth ranking: inside the budget, and within reach of the parent if there is one.

Widths come in whole heads. The FFN is not enumerated: each number of layers on each body gets the
widest FFN that every limit still pays for, so the space has thousands of shapes, not millions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pocketlm.model.family import load_family
from pocketlm.model.shape import Shape, check_shape
from pocketlm.stages.design.budget import Budget, Limit, explain, limits, straight_line

_MAX_LAYERS, _MAX_HIDDEN = 64, 8192  # without a parent
_MAX_FFN_RATIO = 4  # the paper's widest expansion; without a parent
_GROUPS = (1, 2, 4)  # query heads that share keys and values; without a parent


@dataclass(frozen=True)
class Space:
    """Legal shapes, and why others are not among them."""

    shapes: tuple[Shape, ...]
    excluded: tuple[str, ...]
    """One line a reason: what the parent does not have, what the budget does not pay for."""


def legal_shapes(
    budget: Budget,
    *,
    vocab_size: int,
    family: str,
    parent_shape: Shape | None,
    tied: bool | None = None,
) -> Space:
    """Every candidate; raises `BudgetError` that says what is too large if there is none.

    With a parent: its head_dim, its hidden per head, and no axis above its own. Without: heads of
    32, 64 and 128, one K/V head per query head as in the paper; groups of two and four too where
    memory or time is limited, which is what they save.
    `tied`: one matrix for embedding and head. Not given, the parent's; without one, both.
    Where the whole parent fits there is nothing to cut: it is the only shape. Raises `RecipeError`
    for a tied child of an untied parent.
    """
    bounds = limits(budget)
    if parent_shape is not None:
        parent_shape = _headed(parent_shape, tied)
        whole = parent_shape.with_vocab(vocab_size)
        if all(limit.keeps(whole) for limit in bounds):
            return Space((whole,), ("everything smaller: the whole parent fits",))
    ceiling = parent_shape or _open_ceiling(family)
    saves = budget.limits_memory_or_time and bool(load_family(family).keys.kv_heads)
    groups = _GROUPS if saves else (1,)
    # Tied first: what is smallest of all is explained where nothing fits.
    ties = (True, False) if tied is None else (tied,)
    bodies = [b.with_vocab(vocab_size) for b in _bodies(ceiling, parent_shape, groups, ties)]
    layer_counts = range(1 if parent_shape else 2, ceiling.layers + 1)
    shapes: list[Shape] = []
    stopped: dict[str, int] = {}
    for body in bodies:
        most_ffn = ceiling.ffn if parent_shape else _MAX_FFN_RATIO * body.hidden
        fill = _Filler(body, bounds, most_ffn)
        for layers in layer_counts:
            shape, binding = fill(layers)
            if shape is None:  # more layers only cost more
                stopped[binding.key] = stopped.get(binding.key, 0) + 1
                break
            shapes.append(shape)
    if not shapes:
        smallest = replace(bodies[0], layers=layer_counts[0], ffn=fill.least_ffn)
        raise explain(smallest, next(limit for limit in bounds if not limit.keeps(smallest)))
    return Space(tuple(shapes), (*_reach(parent_shape, tied), *_stops(stopped, len(bodies))))


class _Filler:
    """One body: for a number of layers, the widest FFN inside every limit."""

    def __init__(self, body: Shape, bounds: Sequence[Limit], most_ffn: int) -> None:
        self.body, self.bounds, self.most_ffn = body, bounds, most_ffn
        # Formats in blocks of 32 keep rows of other widths at 16 bit.
        self.step = 8 if all(limit.straight for limit in bounds) else 32
        self.least_ffn = min(self.step, most_ffn)
        self.lines = [straight_line(limit.cost, body) for limit in bounds]

    def __call__(self, layers: int) -> tuple[Shape | None, Limit]:
        """The shape, or None with the limit that stops it."""
        room = [
            (limit.most - k0 - layers * k1) / (layers * k2) if k2 else self.most_ffn
            for limit, (k0, k1, k2) in zip(self.bounds, self.lines, strict=True)
        ]
        tightest = min(range(len(room)), key=room.__getitem__)
        ffn = _rounded(room[tightest], self.most_ffn, self.step)
        while ffn >= self.least_ffn:
            shape = replace(self.body, layers=layers, ffn=ffn)
            if all(limit.straight or limit.keeps(shape) for limit in self.bounds):
                return shape, self.bounds[tightest]
            ffn = _rounded(ffn - 1, self.most_ffn, self.step)
        return None, self.bounds[tightest]


def _rounded(room: float, most: int, step: int) -> int:
    """Multiples of `step`, from 512 on of 64 (what kernels like), or exactly `most`."""
    if room >= most:
        return most
    whole = int(max(room, 0))
    return whole // 64 * 64 if whole >= 512 else whole // step * step


def _open_ceiling(family: str) -> Shape:
    return Shape(
        family=family,
        vocab_size=1,
        layers=_MAX_LAYERS,
        hidden=_MAX_HIDDEN,
        heads=_MAX_HIDDEN // 64,
        kv_heads=_MAX_HIDDEN // 64,
        head_dim=64,
        ffn=_MAX_FFN_RATIO * _MAX_HIDDEN,
        tied=True,
    )


def _bodies(
    ceiling: Shape, parent: Shape | None, groups: Sequence[int], ties: Sequence[bool]
) -> Iterator[Shape]:
    """Widths and heads, narrowest first; layers and FFN still to be set."""
    if parent is None:
        for tied in ties:
            yield from _open_bodies(replace(ceiling, tied=tied), groups)
        return
    hidden_per_head = parent.hidden // parent.heads
    group = parent.heads // parent.kv_heads
    for heads in range(1, parent.heads + 1):
        hidden = heads * hidden_per_head
        kv_heads = _fewest_kv_heads(heads, group)
        whole = hidden % 8 == 0 or heads == parent.heads
        if whole and kv_heads <= parent.kv_heads:
            yield replace(parent, hidden=hidden, heads=heads, kv_heads=kv_heads)


def _open_bodies(ceiling: Shape, groups: Sequence[int]) -> Iterator[Shape]:
    widths = (*range(32, 512, 32), *range(512, 1024, 64), *range(1024, _MAX_HIDDEN + 1, 128))
    for hidden, head_dim, group in product(widths, (32, 64, 128), groups):
        heads, rest = divmod(hidden, head_dim)
        # Two heads at least: a single one attends to one thing at a time.
        if rest or heads % group or heads > 64 or (heads < 2 and hidden > 32):
            continue
        kv_heads = heads // group
        yield replace(ceiling, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def _fewest_kv_heads(heads: int, max_group: int) -> int:
    return next(kv for kv in range(1, heads + 1) if heads % kv == 0 and heads // kv <= max_group)


def _headed(parent: Shape, tied: bool | None) -> Shape:
    """The parent with the head its child is to have."""
    if tied is None:
        return parent
    headed = replace(parent, tied=tied)
    check_shape(headed, parent)
    return headed


def _reach(parent: Shape | None, tied: bool | None) -> tuple[str, ...]:
    if parent is None:
        return ()
    other = "untied" if parent.tied else "tied"
    own = "tied to the embedding" if parent.tied else "a matrix of its own"
    why = f"the parent's is {own}" if tied is None else f"tied = {str(tied).lower()}"
    return (
        f"more than {parent.layers} layers, {parent.heads} heads, hidden {parent.hidden} or ffn "
        f"{parent.ffn}: the parent has no more to cut from",
        f"heads other than {parent.head_dim} wide: rotary frequencies would change their meaning",
        f"more than {parent.heads // parent.kv_heads} query heads a group: the parent's groups",
        f"{other} head: {why}",
    )


def _stops(stopped: dict[str, int], num_bodies: int) -> Iterator[str]:
    for key, count in stopped.items():
        yield f"more layers on {count:,} of {num_bodies:,} widths: {key}"
