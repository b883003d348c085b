"""Best rates of sweeps, and their power of the batch."""

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.model.sweep import best_by_parabola, fit_power_exponent

BATCHES = 2.0 ** np.arange(13, 19)
Z = np.log(1e-3) + np.log(2) * np.arange(-3, 4)


def fit(x, y, **given):
    return fit_power_exponent(x, y, **({"rng": np.random.default_rng(0)} | given))


@pytest.mark.parametrize("exponent", [-0.7, 0.0, 0.5, 1.0])
def test_a_power_is_recovered(exponent: float) -> None:
    law = fit(BATCHES, 3e-4 * BATCHES**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.constant == pytest.approx(3e-4)
    assert law.interval() == pytest.approx((exponent, exponent), abs=1e-9)
    assert law.predict([1e6, 2e6]) == pytest.approx(3e-4 * np.array([1e6, 2e6]) ** exponent)


def test_units_and_order_leave_the_exponent() -> None:
    rng = np.random.default_rng(2)
    y = 1e-4 * BATCHES**0.5 * np.exp(0.1 * rng.standard_normal(6))
    order = rng.permutation(6)
    law, other = fit(BATCHES, y), fit(1e-3 * BATCHES[order], 1e3 * y[order])
    assert law.exponent == pytest.approx(np.polyfit(np.log(BATCHES), np.log(y), 1)[0])
    assert other.exponent == pytest.approx(law.exponent)
    assert other.interval() == pytest.approx(law.interval())
    assert law.interval()[0] < law.exponent < law.interval()[1]
    seeds = fit(np.tile(BATCHES, 3), np.tile(y, 3))
    assert seeds.interval() == pytest.approx(law.interval())


def test_intervals_of_eight_batches_hold_the_truth() -> None:
    """Percentiles of few points are somewhat short: 91 % where 95 % is asked for."""
    rng = np.random.default_rng(1)
    x, held = 2.0 ** np.arange(8), []
    for _ in range(300):
        y = x**0.5 * np.exp(0.1 * rng.standard_normal(8))
        low, high = fit(x, y, resamples=300, rng=rng).interval()
        held.append(low <= 0.5 <= high)
    assert 0.87 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1, 2, 2], [1, 2, 3], r"2 distinct x \(1, 2\)"),
        ([], [], "0 distinct x"),
        ([1, 2, 0], [1, 2, 3], "above 0"),
        ([1, 2, 3], [1, 2, float("nan")], "finite"),
    ],
)
def test_too_few_or_impossible_values_are_refused(x, y, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        fit(x, y)


# --- the bottom of one sweep ---


@pytest.mark.parametrize("shift", [-1.1, -0.3, 0.0, 0.2, 0.9])
def test_the_bottom_of_a_parabola_is_found(shift: float) -> None:
    at = np.log(1e-3) + shift
    best = best_by_parabola(Z, 3 + 0.02 * (Z - at) ** 2)
    assert best.log_rate == pytest.approx(at)
    assert best.loss == pytest.approx(3)
    assert best.edge is None
    assert best.error == pytest.approx(0, abs=1e-6)
    assert "best rate" in best.says


def test_three_rates_have_no_error_and_seeds_give_one() -> None:
    z, loss = [0.0, 1.0, 2.0], [1.2, 1.0, 1.1]
    alone = best_by_parabola(z, loss)
    assert alone.error is None
    assert alone.log_rate == pytest.approx(1 + 1 / 6)  # symmetric differences
    seeds = best_by_parabola(z * 2, [*loss, 1.21, 1.02, 1.08])
    assert seeds.error is not None
    assert 0.02 < seeds.error < 0.2


def test_the_error_is_that_of_first_order() -> None:
    """At an optimum off the middle rate, so that both slope and bend count."""
    z = np.tile([-1.0, 0.0, 1.0], 3)
    loss = 3 + (z - 0.35) ** 2 + 0.05 * np.random.default_rng(6).standard_normal(9)
    (c, b, _), covariance = np.polyfit(z, loss, 2, cov=True)
    slope = np.array([b / (2 * c**2), -1 / (2 * c), 0])
    best = best_by_parabola(z, loss, neighbours=1)
    assert best.log_rate == pytest.approx(-b / (2 * c))
    assert best.error == pytest.approx(np.sqrt(slope @ covariance @ slope))


def test_errors_are_of_the_size_of_the_misses() -> None:
    rng = np.random.default_rng(3)
    z, within = np.repeat(Z, 2), []
    for _ in range(300):
        at = np.log(1e-3) + rng.uniform(-0.3, 0.3)
        best = best_by_parabola(z, 3 + 0.02 * (z - at) ** 2 + 0.002 * rng.standard_normal(z.size))
        assert best.error is not None
        within.append(abs(best.log_rate - at) < 2 * best.error)
    assert 0.90 <= np.mean(within) <= 0.995


@pytest.mark.parametrize(("falls", "edge", "at"), [(-1, "highest", Z[-1]), (1, "lowest", Z[0])])
def test_a_sweep_without_a_bottom_says_so(falls: int, edge: str, at: float) -> None:
    best = best_by_parabola(Z, 3 + 0.1 * falls * Z)
    assert (best.edge, best.log_rate, best.error) == (edge, at, None)
    assert edge in best.says


def test_diverged_rates_are_left_out_and_the_one_before_is_an_edge() -> None:
    loss = 3 + 0.02 * (Z - Z[4]) ** 2
    loss[5:] = np.inf, np.nan
    best = best_by_parabola(Z, loss)
    assert (best.edge, best.log_rate) == ("highest", Z[4])
    loss[3] = 2.9
    assert best_by_parabola(Z, loss).edge is None


def test_a_sweep_far_from_a_parabola_is_read_near_its_bottom() -> None:
    """Flat and then a cliff: the parabola through five rates has its bottom elsewhere."""
    best = best_by_parabola(range(7), [9, 9, 5, 1, 1.5, 9, 9], neighbours=2)
    near = best_by_parabola(range(7), [9, 9, 5, 1, 1.5, 9, 9], neighbours=1)
    assert 3 < near.log_rate < 4
    assert best.error is not None
    assert best.error >= abs(best.log_rate - near.log_rate)
    bent = best_by_parabola(range(5), [1.5, 3, 1, 3, 1.2], neighbours=2)
    assert bent.log_rate == pytest.approx(2)


def test_equal_losses_do_not_fail() -> None:
    assert best_by_parabola(range(4), [1.0] * 4).edge == "lowest"
    hardly = best_by_parabola(range(3), [1.0, np.nextafter(1, 0), 1.0])
    assert (hardly.edge, hardly.loss) == (None, pytest.approx(1))
    assert 0 <= hardly.log_rate <= 2


def test_two_rates_are_refused() -> None:
    with pytest.raises(RecipeError, match="2 distinct rates"):
        best_by_parabola([0, 1, 1, 2], [1.0, 2.0, 1.0, float("inf")])
