"""Is an arm's difference real? Seed-paired t, and what could have been seen at all.

Paired t:   d_s = arm_s - baseline_s,  t = mean(d) / (sd(d) / sqrt(S)),  S - 1 degrees of freedom.
Smallest:   (t_(1 - alpha/2A) + t_0.8) sd / sqrt(S), the difference found four times in five even
            if it is the only one, so that Holm asks the most of it (2.8 standard errors in the
            normal case of one arm; t quantiles because seeds are few).
Holm over the arms, which share the baseline, is `pocketlm.statistics.holm`.
Shapes: S seeds; leading axes (...) are studies side by side.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second more to import

from pocketlm.statistics import Floats, detectable

Verdict = Literal["better", "worse", "not resolvable", "not resolvable (one seed)", "failed"]

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
    return detectable(sd / math.sqrt(num_seeds), num_seeds - 1, alpha=alpha)


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
