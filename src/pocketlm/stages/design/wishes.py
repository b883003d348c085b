"""Shapes in the order of a list of wishes: the first wish decides, the next among its equals.

A wish that nothing in the space can grant decides nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pocketlm.model.cost import count_params
from pocketlm.model.shape import Shape
from pocketlm.stages.design.budget import straight_line
from pocketlm.stages.design.ranked import Ranked

_SPENT = 0.9  # of what the space can spend; ours: FFN steps leave a few percent


@dataclass(frozen=True, slots=True)
class Facts:
    """What wishes ask about a shape."""

    params: int
    spent: bool
    vocab_share: float


@dataclass(frozen=True)
class Wish:
    """A number to be small, and what is said of a shape that lost by it."""

    lost: str
    value: Callable[[Shape, Facts], float]


def in_order(shapes: Sequence[Shape], wishes: Sequence[Wish]) -> list[Ranked]:
    """All `shapes`, best first, each with the wish it lost to the first by."""
    facts = _facts(shapes)
    values = [
        tuple(float(wish.value(shape, of_shape)) for wish in wishes)
        for shape, of_shape in zip(shapes, facts, strict=True)
    ]
    order = sorted(range(len(shapes)), key=lambda i: values[i])
    first = values[order[0]]
    return [
        Ranked(
            shape=shapes[i],
            params=facts[i].params,
            value=facts[i].params,
            unit="parameters",
            why=_lost(values[i], first, wishes) if i != order[0] else "",
        )
        for i in order
    ]


def _lost(own: tuple[float, ...], first: tuple[float, ...], wishes: Sequence[Wish]) -> str:
    for mine, best, wish in zip(own, first, wishes, strict=True):
        if mine > best:
            return wish.lost
    return "equal in every wish; listed later"


def _facts(shapes: Sequence[Shape]) -> list[Facts]:
    """Parameters by the straight lines of each body: a space has tens of thousands of shapes."""
    lines: dict[Shape, tuple[float, float, float]] = {}
    params = []
    for shape in shapes:
        body = replace(shape, layers=1, ffn=1)
        if body not in lines:
            lines[body] = straight_line(count_params, body)
        k0, k1, k2 = lines[body]
        params.append(round(k0 + shape.layers * (k1 + k2 * shape.ffn)))
    # Of its own kind: an untied head is free where only time is limited, and would raise the mark.
    most = {True: 0, False: 0}
    for shape, total in zip(shapes, params, strict=True):
        most[shape.tied] = max(most[shape.tied], total)
    return [
        Facts(
            params=total,
            spent=total >= _SPENT * most[shape.tied],
            vocab_share=shape.vocab_size * shape.hidden * (1 if shape.tied else 2) / total,
        )
        for shape, total in zip(shapes, params, strict=True)
    ]
