"""Numbers that are functions of sums over items, with bootstrap intervals over passages.

Passages are drawn whole, since their questions hang together (Efron and Tibshirani 1993, chapter
8). A task of more than MOST_GROUPS of them is first dealt into that many groups at random, which
are then drawn (random groups, Wolter 2007, chapter 2): the spread is the same, the work is not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pocketlm.statistics import (
    Floats,
    Ints,
    Measured,
    bootstrap_p,
    matthews,
    percentiles,
    resampled_sums,
)

MOST_GROUPS = 2000
Sums = Mapping[str, Any]
"""Name -> a sum over items, or that of every resample, [B]."""


class Resampled:
    """Sums over items, and the same over passages drawn again."""

    def __init__(
        self, values: Mapping[str, Floats], cluster_N: Ints, *, num_draws: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """`values` maps a name to what is summed, [N]; `cluster_N` counts passages from 0."""
        self._totals = {name: float(values_N.sum()) for name, values_N in values.items()}
        self._draws: dict[str, Floats] | None = None
        num_clusters = int(cluster_N.max()) + 1
        if num_clusters > MOST_GROUPS:
            cluster_N = (rng.permutation(num_clusters) % MOST_GROUPS)[cluster_N]
        if num_clusters > 1:
            sums_G = [np.bincount(cluster_N, weights=values_N) for values_N in values.values()]
            drawn_BQ = resampled_sums(np.stack(sums_G, axis=1), num_draws=num_draws, rng=rng)
            self._draws = dict(zip(values, drawn_BQ.T, strict=True))

    def measure(self, function: Callable[[Sums], Any]) -> Measured:
        """A function of the sums, with its interval; none where there is one passage."""
        value = float(function(self._totals))
        if self._draws is None:
            return Measured(value=value)
        return percentiles(value, function(self._draws))

    def p(self, function: Callable[[Sums], Any]) -> float:
        """Two-sided p of a function of the sums against 0; 1 where there is one passage."""
        return 1.0 if self._draws is None else bootstrap_p(function(self._draws))


def ratio(top: str, bottom: str) -> Callable[[Sums], Any]:
    """One sum over another."""
    return lambda sums: sums[top] / sums[bottom]


def cells(gold_N: Ints, chosen_N: Ints, num_classes: int, prefix: str) -> dict[str, Floats]:
    """Indicators of the cells of the confusion table, by name, gold before chosen."""
    cell_N = gold_N * num_classes + chosen_N
    return {f"{prefix}{n:04}": (cell_N == n).astype(np.float64) for n in range(num_classes**2)}


def mcc(prefix: str) -> Callable[[Sums], Any]:
    """Matthews correlation from the sums of `cells`."""

    def of(sums: Sums) -> Any:
        found = np.stack([sums[name] for name in sorted(sums) if name.startswith(prefix)], axis=-1)
        num_classes = round(found.shape[-1] ** 0.5)
        return matthews(found.reshape(*found.shape[:-1], num_classes, num_classes))

    return of
