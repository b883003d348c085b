"""In which order legal shapes are tried (paper, architecture tweak).

The paper's findings: depth matters most (Spearman 0.528 with the average score over about 30 shapes
of 1B), an FFN of about 2.77 x hidden, a vocabulary below 20 % of the parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from pocketlm.errors import RecipeError
from pocketlm.method import Method, pick
from pocketlm.model.shape import Shape
from pocketlm.stages.design.propose import PROXY_SAMPLERS
from pocketlm.stages.design.ranked import Means, Ranked, one_per_depth, ranked
from pocketlm.stages.design.successive_halving import first_score, successive_halving
from pocketlm.stages.design.timed import time_shapes
from pocketlm.stages.design.wishes import Facts, Wish, in_order

Ranker = Callable[[Sequence[Shape], Means], list[Ranked]]

_MIN_HIDDEN_PER_LAYER = 32  # ours: the deepest pair the paper trained is 40 layers of 1280
_MAX_VOCAB_SHARE = 0.20  # paper, compact tokenizer
_FFN_RATIO = 2.77  # paper
_FFN_RATIOS = (2.0, 4.0)  # of the 1 to 4 the paper tried; ours: 1 would pay for depth with FFN
_NUM_TIMED = 8

_TIED = Wish("a head of its own beside the embedding", lambda s, f: not s.tied)
_SPENT = Wish("spends less than 90 % of what the budget buys", lambda s, f: not f.spent)
_FLOOR = Wish("narrower than 32 x layers", lambda s, f: s.hidden < _MIN_HIDDEN_PER_LAYER * s.layers)
_SHARE = Wish("a vocabulary above 20 %", lambda s, f: f.vocab_share > _MAX_VOCAB_SHARE)
_FFN = Wish(
    "an FFN outside 2 to 4 x hidden",
    lambda s, f: not _FFN_RATIOS[0] <= s.ffn / s.hidden <= _FFN_RATIOS[1],
)
_DEEPER = Wish("fewer layers", lambda s, f: -s.layers)
_WIDER = Wish("narrower", lambda s, f: -s.hidden)
_OWN_KEYS = Wish("fewer K/V heads a query head", lambda s, f: s.heads / s.kv_heads)
_HEADS = Wish(
    "heads further from 64 (32 below 512)",
    lambda s, f: abs(s.head_dim - (64 if s.hidden >= 512 else 32)),
)
_RATIO = Wish("an FFN further from 2.77 x", lambda s, f: abs(s.ffn / s.hidden - _FFN_RATIO))
_LARGER = Wish("fewer parameters", lambda s, f: -f.params)


def deep_first(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The deepest shape that spends the budget and stays within the paper's proportions.

    First a tied head: a second table pays for no layer. Then the budget spent, hidden >= 32 x
    layers, vocabulary <= 20 %, FFN 2 to 4 x hidden; then the deepest, then full keys and values,
    then the FFN nearest to 2.77 x hidden, then the largest.

    Depth binds on speed in the paper (20 layers chosen, 40 best). Where a budget of time stops
    depth the floor of width per layer is not needed, and is left out.
    """
    floor = () if means.budget.speed else (_FLOOR,)
    wishes = (_TIED, _SPENT, *floor, _SHARE, _FFN, _DEEPER, _OWN_KEYS, _HEADS, _RATIO, _LARGER)
    return in_order(shapes, wishes)


def wide_first(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The control of `deep-first`: the same wishes, with width in the place of depth."""
    wishes = (_TIED, _SPENT, _SHARE, _FFN, _WIDER, _OWN_KEYS, _HEADS, _RATIO, _LARGER)
    return in_order(shapes, wishes)


def roofline(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The fastest predicted shape among those that spend the budget in the paper's proportions."""
    speed, context = means.budget.speed, means.budget.context
    if speed is None:
        raise RecipeError("[design] rank = 'roofline' predicts speed; it needs a device")

    def slower(shape: Shape, facts: Facts) -> float:
        return speed.token_seconds(shape, context)

    wishes = (_TIED, _SPENT, _SHARE, _FFN, Wish("slower", slower), _HEADS)
    return [
        ranked(each.shape, speed.tokens_per_s(each.shape, context), "tokens/s predicted", each.why)
        for each in in_order(shapes, wishes)
    ]


def measured(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The fastest on this machine of eight depths, each with the shape `deep-first` likes best.

    By the least of its rounds; medians and spread stand beside it.
    """
    chosen = one_per_depth(deep_first(shapes, means), _NUM_TIMED)
    timings = time_shapes(chosen, means.runtime, rng=means.rng)
    order = sorted(timings, key=lambda timing: timing.token_s.min)
    best = order[0].token_s.min
    return [
        replace(
            ranked(t.shape, 1 / t.token_s.min, "tokens/s measured",
                   f"{100 * (t.token_s.min / best - 1):.0f} % slower" if t is not order[0] else ""),
            timing=t,
        )
        for t in order
    ]  # fmt: skip


def proxy(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The best after a short training: eight shapes, successive halving on bits per byte.

    Which eight is `proxy_sampler`'s choice; what it learnt from is not trained again.
    """
    if means.train is None:
        raise RecipeError("[design] rank = 'proxy' trains; it needs a corpus, so use a recipe")
    propose = pick(PROXY_SAMPLERS, means.proxy_sampler, "[design] proxy_sampler")
    train = cache(means.train)
    order = deep_first(shapes, means)
    proposed = propose(order, lambda shape: first_score(shape, train), means.rng)
    return successive_halving(proposed, train)


def scaling_law(shapes: Sequence[Shape], means: Means) -> list[Ranked]:
    """The least predicted loss at the recipe's tokens; the law sees size only, so ties go deep."""
    if means.predict_loss is None:
        raise RecipeError("[design] rank = 'scaling-law' needs [design] law, a fitted law's file")
    predict = means.predict_loss
    loss = Wish("a higher predicted loss", lambda s, f: predict(f.params))
    wishes = (_TIED, loss, _FFN, _DEEPER)
    return [
        ranked(each.shape, predict(each.params), "predicted loss", each.why)
        for each in in_order(shapes, wishes)
    ]


RANKERS: dict[str, Method[Ranker]] = {
    "deep-first": Method(deep_first, paper="arXiv 2402.02791, architecture tweak; floor ours"),
    "wide-first": Method(wide_first, paper="control of deep-first, ours"),
    "roofline": Method(roofline, paper="Williams et al. 2009"),
    "measured": Method(measured, paper="ours; MobileLLM times its candidates too"),
    "proxy": Method(proxy, paper="Jamieson and Talwalkar 2016 (successive halving)"),
    "scaling-law": Method(scaling_law, paper="Hoffmann et al. 2022, approach 3"),
}
