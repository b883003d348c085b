"""The search for exponents, and resamples of a design."""

import numpy as np
import pytest
from scipy.optimize import nnls

from pocketlm.model.powers import Data, solve_non_negative
from pocketlm.model.redraw import draw_points, points_of


def test_non_negative_least_squares_is_scipy_s() -> None:
    rng = np.random.default_rng(0)
    column_BRK, target_BR = rng.standard_normal((200, 8, 3)), rng.standard_normal((200, 8))
    found_BK = solve_non_negative(column_BRK, target_BR)
    for found_K, column_RK, target_R in zip(found_BK, column_BRK, target_BR, strict=True):
        assert found_K == pytest.approx(nnls(column_RK, target_R)[0], abs=1e-8)
    assert (found_BK == 0).any(axis=0).all()  # every coefficient met its bound somewhere


def test_fits_side_by_side_are_those_alone() -> None:
    rng = np.random.default_rng(1)
    log_RT = rng.uniform(-2, 2, size=(12, 2))
    y_R = 2 + np.exp(-log_RT @ [0.4, 0.1]) * np.exp(0.01 * rng.standard_normal(12))
    data, weight_BR = Data(log_RT, y_R), rng.uniform(0.2, 2, size=(5, 12))
    start_BT = np.full((5, 2), 0.3)
    together = data.fit(start_BT, weight_BR)
    for b in range(5):
        alone = data.fit(start_BT[b : b + 1], weight_BR[b : b + 1])
        assert together.exponent_BT[b] == pytest.approx(alone.exponent_BT[0], rel=1e-6)


def test_every_start_leads_to_one_optimum() -> None:
    rng = np.random.default_rng(2)
    log_RT = np.stack(np.meshgrid(np.linspace(-2, 2, 5), np.linspace(-2, 2, 4)), -1).reshape(-1, 2)
    y_R = 2 + np.exp(-0.34 * log_RT[:, 0]) + np.exp(-0.28 * log_RT[:, 1])
    y_R *= np.exp(0.005 * rng.standard_normal(20))
    start_BT = np.exp(rng.uniform(np.log(0.03), np.log(2.5), size=(40, 2)))
    found = Data(log_RT, y_R).fit(start_BT, np.ones((40, 20)))
    assert np.ptp(found.exponent_BT, axis=0) == pytest.approx([0, 0], abs=1e-5)


def test_resamples_hold_as_many_points_and_enough_levels() -> None:
    point_CT = np.array([(n, d) for n in range(3) for d in range(3)], np.float64)
    counts_BC = draw_points(
        point_CT, least_points=5, least_levels=3, resamples=500, rng=np.random.default_rng(0)
    )
    assert counts_BC.shape == (500, 9)
    assert (counts_BC.sum(axis=1) == 9).all()
    assert (counts_BC > 0).sum(axis=1).min() >= 5
    for coordinate_C in point_CT.T:
        levels = np.stack([counts_BC[:, coordinate_C == x].sum(axis=1) for x in range(3)])
        assert levels.min() > 0
    assert counts_BC.mean(axis=0) == pytest.approx(np.ones(9), abs=0.15)


def test_points_are_distinct_and_sorted() -> None:
    point_CT, index_R = points_of(np.array([(2.0, 1.0), (1.0, 5.0), (2.0, 1.0)]))
    assert point_CT.tolist() == [[1, 5], [2, 1]]
    assert index_R.tolist() == [1, 0, 1]
