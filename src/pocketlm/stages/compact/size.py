"""How many tokens stay: a number, a coverage, a share of the parameters, or the least work.

Shapes: K sizes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.stages.compact.cautions import overfit_warning, script_warning
from pocketlm.stages.compact.curve import Curve, CurvePoint, FloatArray, IntArray, curve_of
from pocketlm.units import show_count

__all__ = [
    "Body", "BodyOf", "Curve", "CurvePoint", "Decision", "Size", "curve_of", "decide_size",
    "law_vocab_size", "overfit_warning", "script_warning",
]  # fmt: skip

NUM_BODIES = 48  # sizes at which `auto` asks for the body
MULTIPLE = 64  # sizes that `max_share` looks at, beside the smallest and the largest
LAW = (0.00639, -0.1581, 1.2047)
LAW_RANGE = (1_024, 235_000)  # of the fit, and up to where its tokens per character fall


@dataclass(frozen=True)
class Body:
    """What the vocabulary sits on."""

    params: int
    """All but the vocabulary matrices; 0 if no body fits beside the vocabulary."""
    hidden: int
    """Width of a row of the vocabulary matrices."""
    matrices: int
    """1 if embedding and head are one matrix, 2 if not."""


BodyOf = Callable[[int], Body]
"""Vocabulary size -> body."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many tokens are wanted: one of the four, or none for all of the parent's."""

    number: int | None = None
    coverage: float | None = None
    """The fewest that keep this share of the training text's tokens (paper: > 0.9)."""
    max_share: float | None = None
    """The most whose matrices take no more than this share of all parameters (paper: < 0.2)."""
    auto: bool = False
    """The fewest multiplications per byte of text."""
    body_of: BodyOf | None = None
    """Needed by `max_share` and `auto`."""

    def __post_init__(self) -> None:
        given = {
            "vocab_size": self.number,
            "coverage": self.coverage,
            "max_share": self.max_share,
            "vocab_size = auto": self.auto or None,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise RecipeError(f"[compact] {', '.join(names)}: give one of them")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise RecipeError(f"[compact] coverage = {self.coverage}: above 0, at most 1")
        if self.max_share is not None and not 0 < self.max_share < 1:
            raise RecipeError(f"[compact] max_share = {self.max_share}: above 0, below 1")
        if names and names[0] not in ("vocab_size", "coverage") and self.body_of is None:
            raise RecipeError(
                f"[compact] {names[0]}: what the vocabulary sits on is not known; "
                "give [design] shape, or a parent model"
            )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How many tokens stay, and why."""

    vocab_size: int | None
    """None: all of them."""
    reason: str
    law_vocab_size: int | None
    """What the published law takes for the same body, where that is known."""


def decide_size(
    size: Size, curve: Curve, mandatory: Mapping[int, str], num_tokens: int
) -> Decision:
    """Turn what is wanted into a number; `num_tokens` are the parent's.

    Only a number can be below what must stay: `RecipeError` with how many those are, and why.
    """
    chosen: int | None = None
    if size.number is not None:
        chosen, reason = _by_number(size.number, mandatory, num_tokens)
    elif size.coverage is not None:
        chosen, reason = _by_coverage(size.coverage, curve)
    elif size.max_share is not None and size.body_of is not None:
        chosen, reason = _by_share(size.max_share, size.body_of, curve)
    elif size.auto and size.body_of is not None:
        chosen, reason = _by_cost(size.body_of, curve)
    else:
        reason = f"all of the parent's {num_tokens:,} tokens: no size was asked for"
    law = None
    if size.body_of is not None:
        body = size.body_of(num_tokens if chosen is None else chosen)
        law = law_vocab_size(body) if body.params else None
    return Decision(vocab_size=chosen, reason=reason, law_vocab_size=law)


def law_vocab_size(body: Body) -> int:
    """Vocabulary that the published law gives a body of `params` and width `hidden`.

    The V of least (params + V hidden) tau(V), tau(V) = 0.00639 ln^2 V - 0.1581 ln V + 1.2047 tokens
    per character of English web text (Tao et al. 2024, arXiv 2407.13623, section 3), between 1,024
    and the 235,000 where tau begins to rise.
    """
    sizes = np.arange(LAW_RANGE[0], LAW_RANGE[1] + 1)
    logs = np.log(sizes)
    tau = LAW[0] * logs**2 + LAW[1] * logs + LAW[2]
    return int(sizes[np.argmin((body.params + sizes * body.hidden) * tau)])


def _by_number(
    number: int, mandatory: Mapping[int, str], num_tokens: int
) -> tuple[int | None, str]:
    if number >= num_tokens:
        return None, (
            f"vocab_size {number} is not below the parent's {num_tokens} tokens: nothing removed"
        )
    if number < len(mandatory):
        raise RecipeError(
            f"[compact] vocab_size = {number}: {len(mandatory):,} tokens must stay "
            f"({_reasons(mandatory)}). Choose {len(mandatory):,} or more."
        )
    return number, f"vocab_size {number} was asked for"


def _by_coverage(wanted: float, curve: Curve) -> tuple[int, str]:
    k = int(np.searchsorted(curve.coverage_K, wanted))
    found = curve.at(int(curve.vocab_size_K[min(k, curve.vocab_size_K.size - 1)]))
    reason = (
        f"coverage {wanted:g}: {found.vocab_size:,} tokens are the fewest that keep it; they keep "
        f"{100 * found.coverage:.2f} % of the training text's tokens"
    )
    return found.vocab_size, reason + _bound(found.vocab_size, curve)


def _by_share(wanted: float, body_of: BodyOf, curve: Curve) -> tuple[int, str]:
    """The share grows with the size, so halve the range: about 12 bodies."""
    first, last = curve.smallest // MULTIPLE + 1, (curve.largest - 1) // MULTIPLE
    sizes = [curve.smallest, *(MULTIPLE * n for n in range(first, last + 1)), curve.largest]
    low, high = 0, len(sizes) - 1
    if _share(body_of(sizes[high]), sizes[high]) <= wanted:
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        if _share(body_of(sizes[middle]), sizes[middle]) <= wanted:
            low = middle
        else:
            high = middle
    chosen = sizes[low]
    body = body_of(chosen)
    share = _share(body, chosen)
    reason = (
        f"max_share {wanted:g}: {chosen:,} tokens take {100 * share:.1f} % of the parameters "
        f"({body.matrices} x {chosen:,} x {body.hidden:,} beside {show_count(body.params)})"
    )
    if share > wanted:
        return chosen, f"{reason}, more than wanted: fewer may not stay"
    return chosen, reason


def _by_cost(body_of: BodyOf, curve: Curve) -> tuple[int, str]:
    size_K, params_K, hidden_K = _bodies(body_of, curve)
    cost_K = (params_K + size_K * hidden_K) * curve.tokens_per_byte_K[size_K - curve.smallest]
    best = int(cost_K.argmin())
    if np.isinf(cost_K[best]):
        raise RecipeError("[compact] vocab_size = auto: no vocabulary leaves room for a body")
    chosen = curve.at(int(size_K[best]))
    near = size_K[cost_K <= 1.01 * cost_K[best]]
    gain = "" if np.isinf(cost_K[-1]) else (
        f"{100 * (1 - cost_K[best] / cost_K[-1]):.1f} % below all {curve.largest:,}, "
    )  # fmt: skip
    reason = (
        f"auto: ({show_count(int(params_K[best]))} + V x {hidden_K[best]:.0f}) x tokens per byte "
        f"is least at V = {chosen.vocab_size:,} ({chosen.tokens_per_byte:.4f} tokens per byte), "
        f"{gain}within 1 % from {near.min():,} to {near.max():,}"
    )
    return chosen.vocab_size, reason + _bound(chosen.vocab_size, curve)


def _bodies(body_of: BodyOf, curve: Curve) -> tuple[IntArray, FloatArray, FloatArray]:
    """Sizes, body parameters (infinite where no body fits) and widths: at every size if the body
    is always the same, else at about `NUM_BODIES` in equal ratios."""
    spread = np.geomspace(max(curve.smallest, 1), curve.largest, NUM_BODIES).round()
    size_K = np.unique(spread.astype(np.int64))
    bodies = [body_of(int(size)) for size in size_K]
    if len(set(bodies)) == 1:
        size_K = curve.vocab_size_K
        bodies = bodies[:1] * size_K.size
    params_K = np.array([body.params or np.inf for body in bodies], dtype=np.float64)
    hidden_K = np.array([body.hidden for body in bodies], dtype=np.float64)
    return size_K, params_K, hidden_K


def _share(body: Body, vocab_size: int) -> float:
    matrices = body.matrices * vocab_size * body.hidden
    return matrices / (body.params + matrices)


def _bound(vocab_size: int, curve: Curve) -> str:
    return "; no fewer may stay" if vocab_size == curve.smallest else ""


def _reasons(mandatory: Mapping[int, str]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in Counter(mandatory.values()).most_common())
