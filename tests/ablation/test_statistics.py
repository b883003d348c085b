"""Agreement with scipy, and no more false verdicts than promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from pocketlm.ablation.statistics import (
    Difference,
    decide,
    paired_difference,
    paired_p,
    seeds_needed,
    smallest_difference,
)
from pocketlm.statistics import holm

A_FEW = st.lists(st.floats(-10, 10), min_size=2, max_size=12)


@settings(deadline=None)
@given(A_FEW, st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 0.2]))
def test_paired_t_agrees_with_scipy(baseline: list[float], seed: int, alpha: float) -> None:
    baseline_S = np.array(baseline)
    arm_S = baseline_S + np.random.default_rng(seed).normal(0.3, 1.0, baseline_S.size)
    theirs = ttest_rel(arm_S, baseline_S)
    ours = paired_difference(arm_S - baseline_S, alpha=alpha, num_arms=1)
    interval = theirs.confidence_interval(1 - alpha)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("num_arms", [1, 4, 12])
def test_equal_arms_are_rarely_told_apart(num_seeds: int, num_arms: int) -> None:
    """2,000 A/A studies: any false verdict in at most 6.3 % of them (5 % + 2.6 standard errors)."""
    rng = np.random.default_rng(20240501)
    arms_XAS = rng.normal(1.2, 0.01, (2000, num_arms, num_seeds))
    baseline_X1S = rng.normal(1.2, 0.01, (2000, 1, num_seeds))
    p_XA = holm(paired_p(arms_XAS - baseline_X1S))
    assert (p_XA < 0.05).any(axis=-1).mean() <= 0.063


def test_smallest_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(7)
    for num_seeds in (3, 5, 10):
        size = smallest_difference(1.0, num_seeds, alpha=0.05)
        found = paired_p(rng.normal(size, 1.0, (20_000, num_seeds))) < 0.05
        assert found.mean() == pytest.approx(0.8, abs=0.04)
    assert smallest_difference(1.0, 10_000, alpha=0.05) == pytest.approx(2.80 / 100, rel=0.01)


def test_seeds_needed_is_the_first_that_resolves() -> None:
    difference = paired_difference(np.array([0.1, 0.3, -0.1]), alpha=0.05, num_arms=1)
    needed = seeds_needed(difference, alpha=0.05)
    assert needed is not None
    assert difference.sd is not None
    assert smallest_difference(difference.sd, needed, alpha=0.05) <= abs(difference.mean)
    assert smallest_difference(difference.sd, needed - 1, alpha=0.05) > abs(difference.mean)
    assert seeds_needed(Difference(num_seeds=2, mean=0.0, sd=1.0), alpha=0.05) is None


def test_one_seed_claims_nothing() -> None:
    difference = paired_difference(np.array([-0.5]), alpha=0.05, num_arms=3)
    assert difference == Difference(num_seeds=1, mean=-0.5)
    assert decide(difference, None, better="lower", alpha=0.05) == "not resolvable (one seed)"


@pytest.mark.parametrize(
    ("mean", "p", "better", "verdict"),
    [
        (-0.1, 0.01, "lower", "better"),
        (0.1, 0.01, "lower", "worse"),
        (0.1, 0.01, "higher", "better"),
        (-0.1, 0.01, "higher", "worse"),
        (-0.1, 0.05, "lower", "not resolvable"),
    ],
)
def test_verdicts(mean: float, p: float, better: str, verdict: str) -> None:
    difference = Difference(num_seeds=3, mean=mean)
    assert decide(difference, p, better=better, alpha=0.05) == verdict  # type: ignore[arg-type]


def test_seeds_that_agree_exactly() -> None:
    assert paired_p(np.array([2.0, 2.0, 2.0])) == 0.0
    assert paired_p(np.array([0.0, 0.0])) == 1.0
