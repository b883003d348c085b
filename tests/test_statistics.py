"""Agreement with scipy, formulas by hand, and no more false verdicts than promised."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp

from pocketlm.statistics import (
    bootstrap_interval,
    bootstrap_p,
    clustered_error,
    clustered_mean,
    clustered_share,
    detectable,
    holm,
    matthews,
    mcnemar_p,
    mean_over_parts,
    normal_interval,
    normal_p,
    percentiles,
    resampled_sums,
    t_p,
    wilson,
)

HITS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(HITS, st.sampled_from([0.01, 0.05, 0.2]))
def test_wilson_agrees_with_scipy(hits: tuple[int, int], alpha: float) -> None:
    theirs = binomtest(*hits).proportion_ci(1 - alpha, method="wilson")
    assert wilson(*hits, alpha=alpha) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_agrees_with_scipy(first: int, second: int) -> None:
    theirs = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_single_items_give_the_usual_error_and_t_test() -> None:
    values_N = np.random.default_rng(0).normal(0.1, 1.0, 40)
    found = clustered_mean(values_N, np.arange(40))
    theirs = ttest_1samp(values_N, 0.0)
    interval = theirs.confidence_interval()
    assert found.error == pytest.approx(values_N.std(ddof=1) / math.sqrt(40), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert t_p(found.value, found.error, 39) == pytest.approx(theirs.pvalue, abs=1e-9)


def test_clusters_by_hand() -> None:
    """Mean 1/2; sums of residuals over N are 1/4 and -1/4; 2/1 (1/16 + 1/16) = 1/4."""
    error, free = clustered_error((np.array([1.0, 1, 0, 0]) - 0.5) / 4, np.array([0, 0, 1, 1]))
    assert (error, free) == (pytest.approx(0.5), 1)
    # The same items alone: sqrt(4/3 * 4 * (1/8)²).
    assert clustered_error(np.array([0.125, 0.125, -0.125, -0.125]), np.arange(4)) == (
        pytest.approx(math.sqrt(1 / 12)),
        3,
    )


def test_one_cluster_alone_has_no_interval() -> None:
    for found in (
        clustered_mean(np.array([1.0, 0.0]), np.array([0, 0])),
        clustered_share(np.array([1.0, 0.0]), np.array([0, 0])),
    ):
        assert (found.value, found.low, found.high, found.error) == (0.5, None, None, None)
    assert t_p(0.5, None, 0) == normal_p(0.5, None) == 1.0
    assert normal_interval(0.5, None).low is None


def test_a_share_is_wilson_s_where_items_are_single_or_all_alike() -> None:
    hit_N = np.array([1.0, 1.0, 0.0, 1.0])
    single = clustered_share(hit_N, np.arange(4))
    assert (single.low, single.high) == pytest.approx(wilson(3, 4))
    alike = clustered_share(np.ones(6), np.array([0, 0, 1, 1, 2, 2]))
    assert (alike.low, alike.high) == pytest.approx(wilson(3, 3))
    apart = clustered_share(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 1, 1]))
    assert (apart.low, apart.high) == (0.0, 1.0)  # t with one degree of freedom, cut to 0..1


def test_clustered_intervals_hold_the_truth_about_19_times_in_20() -> None:
    """Passages of 5 questions that succeed together: Wilson's would hold it far more rarely."""
    rng = np.random.default_rng(4)
    cluster_N = np.repeat(np.arange(60), 5)
    held = naive = 0
    for _ in range(300):
        chance_N = rng.beta(0.5, 0.5, 60)[cluster_N]
        hit_N = (rng.random(300) < chance_N).astype(float)
        found = clustered_share(hit_N, cluster_N)
        low, high = wilson(hit_N.sum(), 300)
        held += found.low <= 0.5 <= found.high
        naive += low <= 0.5 <= high
    assert 274 <= held <= 297  # 95 % of 300, three standard errors
    assert naive < 250


def test_mean_over_parts_by_hand() -> None:
    score_N, part_N = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 1, 1, 1, 1])
    found = mean_over_parts(score_N, part_N, np.arange(6))
    assert found.value == pytest.approx((0.5 + 0.75) / 2)
    # Variances over parts: (1/4) (s²_1/2 + s²_2/4), s² with n - 1; G/(G-1) = 6/5 on top.
    assert found.error == pytest.approx(math.sqrt(6 / 5 * (0.5 / 2 + 0.25 / 4) / 4))


def test_a_part_of_one_item_does_not_pretend_to_be_certain() -> None:
    found = mean_over_parts(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), np.arange(3))
    assert (
        found.error
        > mean_over_parts(np.array([1.0, 0.0, 2 / 3]), np.array([0, 0, 1]), np.arange(3)).error
    )


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_matthews_of_two_classes(cells: list[int]) -> None:
    (a, b, c, d) = cells
    product = (a + b) * (c + d) * (a + c) * (b + d)
    expected = (a * d - b * c) / math.sqrt(product) if product else 0.0
    assert matthews(np.array([[a, b], [c, d]], dtype=float)) == pytest.approx(expected, abs=1e-12)


def test_matthews_of_a_constant_answer_is_0_and_of_three_right_classes_1() -> None:
    assert matthews(np.array([[3.0, 0.0], [5.0, 0.0]])) == 0.0
    assert matthews(np.diag([2.0, 3.0, 4.0])) == pytest.approx(1.0)
    assert matthews(np.zeros((7, 2, 2))).shape == (7,)


def test_bootstrap_p() -> None:
    assert bootstrap_p(np.array([1.0] * 999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.array([-1.0, 1.0] * 500)) == 1.0
    assert bootstrap_p(np.zeros(9)) == 1.0
    rng = np.random.default_rng(0)
    values_N = rng.normal(0.2, 1.0, 120)
    draw_B = resampled_sums(values_N[:, None], num_draws=4000, rng=rng)[:, 0] / 120
    theirs = ttest_1samp(values_N, 0.0)
    assert bootstrap_p(draw_B) == pytest.approx(theirs.pvalue, abs=0.02)
    found = percentiles(float(values_N.mean()), draw_B)
    assert found.error == pytest.approx(values_N.std() / math.sqrt(120), rel=0.05)
    interval = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.03)


def test_normal_p_and_detectable() -> None:
    assert normal_p(1.96, 1.0) == pytest.approx(2 * norm.sf(1.96), abs=1e-12)
    assert normal_p(0.0, 0.0) == 1.0
    assert normal_p(0.1, 0.0) == 0.0
    assert detectable(1.0, 10**6) == pytest.approx(2.80, abs=0.005)


def test_holm_by_hand() -> None:
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04 -> not below .06
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9, 1.0])) == pytest.approx([1.0, 1.0, 1.0])
    assert holm(np.array([0.03])) == pytest.approx([0.03])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    p_A = np.array(p)
    adjusted_A = holm(p_A)
    assert (adjusted_A >= p_A - 1e-15).all()
    assert (adjusted_A <= np.minimum(1.0, p_A.size * p_A) + 1e-15).all()
    order_A = np.argsort(p_A, kind="stable")
    assert (np.diff(adjusted_A[order_A]) >= 0).all()


def test_bootstrap_covers_the_truth() -> None:
    """Documents whose true difference is 0.1 bits per byte: about 95 % of intervals hold it."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(100):
        bytes_N = rng.integers(100, 2000, 150).astype(np.float64)
        bits_N = bytes_N * rng.normal(0.1, 0.2, bytes_N.size)
        low, high = bootstrap_interval(bits_N, bytes_N, alpha=0.05, num_draws=200, rng=rng)
        held += low <= 0.1 <= high
    assert held >= 86


def test_bootstrap_of_a_constant_ratio_has_no_width() -> None:
    bytes_N = np.array([10.0, 200.0, 3000.0])
    interval = bootstrap_interval(0.5 * bytes_N, bytes_N, alpha=0.05, rng=np.random.default_rng(0))
    assert interval == pytest.approx((0.5, 0.5))
    assert not any(map(math.isnan, interval))
