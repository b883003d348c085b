"""Is a number, or a difference, more than noise? What stages and studies both ask.

    Wilson 1927     interval of a share: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    clusters        error² = G/(G-1) sum_g (sum_{i in g} u_i)², with u_i the part of item i in the
                    estimate's error, (x_i - mean)/N for a mean; t with G - 1 degrees of freedom
                    (Liang and Zeger 1986; Miller 2024, arXiv 2411.00640, section 2.2)
    McNemar 1947    of items that one model alone gets right, the binomial chance of such a split
    Holm 1979       p_(i) -> max over j <= i of (A - j + 1) p_(j), at most 1: holds the chance of
                    any false verdict at alpha however the tests depend on each other
    Matthews        correlation for K classes (Gorodkin 2004), for two that of Matthews 1975; 0
                    where it is undefined: one class alone
    detectable      (t_(1 - alpha/2) + t_0.8) error: the difference found four times in five

Shapes: N items, G clusters, B resamples, Q quantities, A tests, P parts, K
classes; leading axes (...) are side by side.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import (  # scipy.stats takes a second more to import
    bdtr,
    ndtr,
    ndtri,
    stdtr,
    stdtrit,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.05
POWER = 0.8
_DRAWN_AT_ONCE = 500_000  # indices of resamples: a few megabytes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its 95 % interval; None where one passage or item alone cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    """Standard error."""


def wilson(hits: float, num_items: float, *, alpha: float = ALPHA) -> tuple[float, float]:
    """Interval of a share of `num_items` >= 1 independent items (Wilson 1927)."""
    z = float(ndtri(1 - alpha / 2))
    share = hits / num_items
    centre = share + z * z / (2 * num_items)
    half = z * math.sqrt(share * (1 - share) / num_items + (z / (2 * num_items)) ** 2)
    scale = 1 + z * z / num_items
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def clustered_error(influence_N: Floats, cluster_N: Ints) -> tuple[float | None, int]:
    """Standard error of an estimate and its degrees of freedom, G - 1; None for one cluster.

    `influence_N` says how much of the estimate's error each item is; `cluster_N` counts from 0.
    """
    sums_G = np.bincount(cluster_N, weights=influence_N)
    num_clusters = int(np.count_nonzero(np.bincount(cluster_N)))
    if num_clusters < 2:
        return None, 0
    error = math.sqrt(num_clusters / (num_clusters - 1) * float(sums_G @ sums_G))
    return error, num_clusters - 1


def t_interval(value: float, error: float | None, free: int, *, alpha: float = ALPHA) -> Measured:
    """`value` with its interval by Student's t; without an error there is none."""
    if error is None:
        return Measured(value=value)
    half = float(stdtrit(free, 1 - alpha / 2)) * error
    return Measured(value=value, low=value - half, high=value + half, error=error)


def clustered_mean(values_N: Floats, cluster_N: Ints) -> Measured:
    """A mean with its clustered t interval; none where all items share one passage."""
    value = float(values_N.mean())
    error, free = clustered_error((values_N - value) / values_N.size, cluster_N)
    return t_interval(value, error, free)


def clustered_share(hit_N: Floats, cluster_N: Ints) -> Measured:
    """A share of hits: Wilson's interval for single items, the clustered one within 0 to 1 else.

    Where every item of every passage came out alike, passages count as Wilson's items.
    """
    found = clustered_mean(hit_N, cluster_N)
    num_clusters = int(np.count_nonzero(np.bincount(cluster_N)))
    if found.error is None or (num_clusters < hit_N.size and found.error > 0):
        return as_share(found)
    low, high = wilson(found.value * num_clusters, num_clusters)
    return Measured(value=found.value, low=low, high=high, error=found.error)


def mean_over_parts(score_N: Floats, part_N: Ints, cluster_N: Ints) -> Measured:
    """Mean over parts of their means; its error is that of independent parts.

    A part of one item or passage has no spread of its own: it is held against the whole mean.
    """
    size_P = np.bincount(part_N)
    mean_P = np.bincount(part_N, weights=score_N) / size_P
    pairs = np.unique(np.stack([part_N, cluster_N]), axis=1)
    clusters_P = np.bincount(pairs[0])
    alone_P = clusters_P < 2
    centre_P = np.where(alone_P, score_N.mean(), mean_P)
    widen_P = np.where(alone_P, 1.0, np.sqrt(clusters_P / np.maximum(clusters_P - 1, 1)))
    weight_P = widen_P / (size_P.size * size_P)
    error, free = clustered_error((score_N - centre_P[part_N]) * weight_P[part_N], cluster_N)
    return t_interval(float(mean_P.mean()), error, free)


def as_share(found: Measured) -> Measured:
    """The same with its interval inside 0 to 1."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def normal_interval(value: float, error: float | None, *, alpha: float = ALPHA) -> Measured:
    """`value` with its normal interval; without an error there is none."""
    if error is None:
        return Measured(value=value)
    half = float(ndtri(1 - alpha / 2)) * error
    return Measured(value=value, low=value - half, high=value + half, error=error)


def t_p(value: float, error: float | None, free: int) -> float:
    """Two-sided p of `value` against 0; 1 without an error, and for 0 itself."""
    if error is None or value == 0:
        return 1.0
    return 0.0 if error == 0 else float(2 * stdtr(free, -abs(value / error)))


def normal_p(value: float, error: float | None) -> float:
    """Two-sided normal p of `value` against 0; 1 without an error, and for 0 itself."""
    if error is None or value == 0:
        return 1.0
    return 0.0 if error == 0 else float(2 * ndtr(-abs(value / error)))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p for the items that one of two models alone gets right; 1 without any."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))


def holm(p_A: Floats) -> Floats:
    """Holm's adjusted p values, [..., A] -> [..., A]; a test without a p counts as p = 1."""
    num_tests = p_A.shape[-1]
    order_A = np.argsort(p_A, axis=-1)
    scaled_A = np.take_along_axis(p_A, order_A, axis=-1) * np.arange(num_tests, 0, -1)
    adjusted_A = np.minimum(np.maximum.accumulate(scaled_A, axis=-1), 1.0)
    result_A = np.empty_like(adjusted_A)
    np.put_along_axis(result_A, order_A, adjusted_A, axis=-1)
    return result_A


def detectable(error: float, free: int, *, alpha: float = ALPHA) -> float:
    """The difference that a t test with this standard error finds four times in five.

    `alpha` is that of one test: the family's over its number of tests.
    """
    return float(stdtrit(free, 1 - alpha / 2) + stdtrit(free, POWER)) * error


def matthews(confusion_KK: Floats) -> Floats:
    """Matthews correlation of gold (rows) and chosen (columns), [..., K, K] -> [...]."""
    total = confusion_KK.sum(axis=(-2, -1))
    gold_K, chosen_K = confusion_KK.sum(axis=-1), confusion_KK.sum(axis=-2)
    right = np.trace(confusion_KK, axis1=-2, axis2=-1)
    joint = right * total - (gold_K * chosen_K).sum(axis=-1)
    spread = (total**2 - (gold_K**2).sum(axis=-1)) * (total**2 - (chosen_K**2).sum(axis=-1))
    defined = spread > 0
    found: Floats = np.where(defined, joint / np.sqrt(np.where(defined, spread, 1.0)), 0.0)
    return found


def resampled_sums(values_NQ: Floats, *, num_draws: int, rng: np.random.Generator) -> Floats:
    """Sums of N items drawn with replacement, [N, Q] -> [B, Q] (Efron and Tibshirani 1993)."""
    num_items, num_quantities = values_NQ.shape
    columns = [np.ascontiguousarray(values_NQ[:, q]) for q in range(num_quantities)]
    rows = max(1, _DRAWN_AT_ONCE // num_items)
    sums = []
    for start in range(0, num_draws, rows):
        drawn_BN = rng.integers(num_items, size=(min(rows, num_draws - start), num_items))
        sums.append(np.stack([column.take(drawn_BN).sum(axis=1) for column in columns], axis=1))
    return np.concatenate(sums)


def percentiles(value: float, draw_B: Floats, *, alpha: float = ALPHA) -> Measured:
    """`value` with the percentile interval and the spread of its resamples."""
    low, high = np.quantile(draw_B, [alpha / 2, 1 - alpha / 2])
    return Measured(value=value, low=float(low), high=float(high), error=float(draw_B.std(ddof=1)))


def bootstrap_p(draw_B: Floats) -> float:
    """Two-sided p of a resampled difference: twice the smaller share on either side of 0.

    The estimate itself counts as one resample (Davison and Hinkley 1997, section 4.2.5), so p is
    never 0.
    """
    side = min(int((draw_B <= 0).sum()), int((draw_B >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (draw_B.size + 1))


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
    sums_B2 = resampled_sums(np.stack([bits_N, bytes_N], axis=1), num_draws=num_draws, rng=rng)
    low, high = np.quantile(sums_B2[:, 0] / sums_B2[:, 1], [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)
