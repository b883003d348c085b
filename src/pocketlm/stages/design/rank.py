"""In which order legal shapes are tried (paper, architecture tweak).

The paper's findings: depth matters most (Spearman 0.528 with the average score over about 30 shapes
of 1B), an FFN of about 2.77 x hidden, a vocabulary below 20 % of the parameters. Each ranker is a
list of wishes in order; a wish nothing in the space can grant decides nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocketlm.method import Method
from pocketlm.model.cost import params_by_part
from pocketlm.model.shape import Shape

_SPENT = 0.9  # of what the space can spend; ours: FFN steps leave a few percent
_MIN_HIDDEN_PER_LAYER = 32  # ours: the deepest pair the paper trained is 40 layers of 1280
_MAX_VOCAB_SHARE = 0.20  # paper, compact tokenizer
_FFN_RATIO = 2.77  # paper
_FFN_RATIOS = (2.0, 4.0)  # of the 1 to 4 the paper tried; ours: 1 would pay for depth with FFN

Ranker = Callable[[Sequence[Shape]], list[Shape]]


def deep_first(shapes: Sequence[Shape]) -> list[Shape]:
    """The deepest shape that spends the budget and stays within the paper's proportions.

    First the budget spent, hidden >= 32 x layers, vocabulary <= 20 %, FFN 2 to 4 x hidden; then
    the deepest, then the FFN nearest to 2.77 x hidden, then the largest.

    Depth binds on speed in the paper (20 layers chosen, 40 best); until a speed budget exists the
    floor of width per layer stands in for it.
    """

    def wishes(shape: Shape, facts: _Facts) -> tuple[float, ...]:
        return (
            not facts.spent,
            shape.hidden < _MIN_HIDDEN_PER_LAYER * shape.layers,
            facts.vocab_share > _MAX_VOCAB_SHARE,
            not facts.usual_ffn,
            -shape.layers,
            abs(shape.ffn / shape.hidden - _FFN_RATIO),
            -facts.params,
        )

    return _in_order(shapes, wishes)


def wide_first(shapes: Sequence[Shape]) -> list[Shape]:
    """The control of `deep-first`: the same wishes, with width in the place of depth."""

    def wishes(shape: Shape, facts: _Facts) -> tuple[float, ...]:
        return (
            not facts.spent,
            facts.vocab_share > _MAX_VOCAB_SHARE,
            not facts.usual_ffn,
            -shape.hidden,
            abs(shape.ffn / shape.hidden - _FFN_RATIO),
            -facts.params,
        )

    return _in_order(shapes, wishes)


RANKERS: dict[str, Method[Ranker]] = {
    "deep-first": Method(deep_first, paper="arXiv 2402.02791, architecture tweak; floor ours"),
    "wide-first": Method(wide_first, paper="control of deep-first, ours"),
}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the wishes ask about a shape."""

    params: int
    spent: bool
    vocab_share: float
    usual_ffn: bool


def _in_order(
    shapes: Sequence[Shape], wishes: Callable[[Shape, _Facts], tuple[float, ...]]
) -> list[Shape]:
    parts = [params_by_part(shape) for shape in shapes]
    params = [sum(of_shape.values()) for of_shape in parts]
    least = _SPENT * max(params)
    low, high = _FFN_RATIOS
    facts = [
        _Facts(
            params=total,
            spent=total >= least,
            vocab_share=(of_shape["embedding"] + of_shape["head"]) / total,
            usual_ffn=low <= shape.ffn / shape.hidden <= high,
        )
        for shape, of_shape, total in zip(shapes, parts, params, strict=True)
    ]
    order = sorted(range(len(shapes)), key=lambda i: wishes(shapes[i], facts[i]))
    return [shapes[i] for i in order]
