"""Is a difference real? Seed-paired t, Holm over the arms, and what could have been seen at all.

Paired t:   d_s = arm_s - baseline_s,  t = mean(d) / (sd(d) / sqrt(S)),  S - 1 degrees of freedom.
Holm 1979:  p_(i) -> max over j <= i of (A - j + 1) p_(j), at most 1: holds the chance of any false
            verdict at alpha however the arms depend on each other (they share the baseline).
Smallest:   (t_(1 - alpha/2A) + t_0.8) sd / sqrt(S), the difference found four times in five even
            if it is the only one, so that Holm asks the most of it (2.8 standard errors in the
            normal case of one arm; t quantiles because seeds are few).
Shapes: S seeds, A arms, N documents, B resamples; leading axes (...) are studies side by side.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second more to import

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "not resolvable", "not resolvable (one seed)", "failed"]

POWER = 0.8
_MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Arm minus baseline over the seeds both have; None where one seed cannot tell."""

    num_seeds: int
    mean: float
    sd: float | None = None
    low: float | None = None
    """Lower end of the t interval, at 1 - alpha, not corrected for the number of arms."""
    high: float | None = None
    p: float | None = None
    """Paired t, two-sided, before Holm."""
    smallest: float | None = None
    """Smallest difference that this many seeds find four times in five, Holm included."""


def paired_difference(difference_S: Floats, *, alpha: float, num_arms: int) -> Difference:
    """Summary of at least one seed-paired difference in a study of `num_arms` arms."""
    num_seeds = difference_S.size
    mean = float(difference_S.mean())
    if num_seeds == 1:
        return Difference(num_seeds=1, mean=mean)
    sd = float(difference_S.std(ddof=1))
    half = float(stdtrit(num_seeds - 1, 1 - alpha / 2)) * sd / math.sqrt(num_seeds)
    return Difference(
        num_seeds=num_seeds,
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        p=float(paired_p(difference_S)),
        smallest=smallest_difference(sd, num_seeds, alpha=alpha / num_arms),
    )


def paired_p(difference_S: Floats) -> Floats:
    """Two-sided p of the paired t test, [..., S] -> [...].

    Seeds that all differ by the same amount leave no doubt: p is 0, or 1 where that amount is 0.
    """
    num_seeds = difference_S.shape[-1]
    mean = difference_S.mean(axis=-1)
    error = difference_S.std(axis=-1, ddof=1) / math.sqrt(num_seeds)
    with np.errstate(divide="ignore", invalid="ignore"):
        p: Floats = 2 * stdtr(num_seeds - 1, -np.abs(mean / error))
    return np.where(error == 0, np.where(mean == 0, 1.0, 0.0), p)


def holm(p_A: Floats) -> Floats:
    """Holm's adjusted p values, [..., A] -> [..., A]; an arm without a p counts as p = 1."""
    num_arms = p_A.shape[-1]
    order_A = np.argsort(p_A, axis=-1)
    scaled_A = np.take_along_axis(p_A, order_A, axis=-1) * np.arange(num_arms, 0, -1)
    adjusted_A = np.minimum(np.maximum.accumulate(scaled_A, axis=-1), 1.0)
    result_A = np.empty_like(adjusted_A)
    np.put_along_axis(result_A, order_A, adjusted_A, axis=-1)
    return result_A


def decide(
    difference: Difference,
    p_holm: float | None,
    *,
    better: Literal["lower", "higher"],
    alpha: float,
) -> Verdict:
    """The verdict on one arm: a difference counts when Holm's p is below alpha."""
    if p_holm is None:
        return "not resolvable (one seed)"
    if p_holm >= alpha:
        return "not resolvable"
    return "better" if (difference.mean < 0) == (better == "lower") else "worse"


def smallest_difference(sd: float, num_seeds: int, *, alpha: float) -> float:
    """The difference that a paired t test over `num_seeds` finds four times in five.

    `alpha` is that of one test: the study's over its number of arms.
    """
    free = num_seeds - 1
    factor = float(stdtrit(free, 1 - alpha / 2) + stdtrit(free, POWER))
    return factor * sd / math.sqrt(num_seeds)


def seeds_needed(difference: Difference, *, alpha: float) -> int | None:
    """Seeds that would resolve this mean at this spread; None where a thousand would not.

    `alpha` as in `smallest_difference`.
    """
    if difference.sd is None:
        return None
    for num_seeds in range(2, _MOST_SEEDS + 1):
        if smallest_difference(difference.sd, num_seeds, alpha=alpha) <= abs(difference.mean):
            return num_seeds
    return None


def bootstrap_interval(
    bits_N: Floats,
    bytes_N: Floats,
    *,
    alpha: float,
    num_draws: int = 2000,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Interval of sum(bits) / sum(bytes) over documents drawn again with replacement.

    `bits_N` are differences, arm minus baseline, of the same documents: the pairing is theirs.
    It speaks about these two models on other text, not about other seeds.
    """
    num_documents = bits_N.size
    ratios = []
    for draws in range(0, num_draws, _draws_at_once(num_documents)):
        rows = min(_draws_at_once(num_documents), num_draws - draws)
        drawn_BN = rng.integers(num_documents, size=(rows, num_documents))
        ratios.append(bits_N[drawn_BN].sum(axis=1) / bytes_N[drawn_BN].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _draws_at_once(num_documents: int) -> int:
    """Resamples that are drawn together: a few megabytes of indices."""
    return max(1, 500_000 // num_documents)
