"""Rates: from full to almost nothing, never up again, and the step law within its cap."""

import numpy as np
import pytest

from pocketlm.recipe import TrainTable
from pocketlm.stages.train.schedule import (
    MAX_DEFAULT_RATE,
    ROUND_SCHEDULES,
    SCHEDULES,
    default_rate,
    explain_rate,
    peak_rate,
    rate_share,
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_starts_full_and_never_rises(name: str) -> None:
    rates = [SCHEDULES[name].function(done) for done in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(1.0)
    assert 0 <= rates[-1] <= 0.1 + 1e-12
    assert (np.diff(rates) <= 1e-12).all()


def test_step_law_at_a_published_point() -> None:
    """N = 0.83B, D = 50B: about 1.5e-3."""
    assert default_rate(830_000_000, 50_000_000_000) == pytest.approx(1.5e-3, rel=0.05)


def test_small_models_stay_under_the_cap() -> None:
    assert default_rate(2_000_000, 2_000_000) == MAX_DEFAULT_RATE


def test_the_papers_square_root_and_its_warning() -> None:
    """1e-4 at a million tokens a step is 1.41e-4 at two; above four the rule is in doubt."""
    table = TrainTable(batch_tokens=2 * 10**6, reference_rate=1e-4, reference_batch_tokens=10**6)
    assert peak_rate(table, 10**9, 10**12) == pytest.approx(1.414e-4, rel=1e-3)
    assert "1.41e-04" in explain_rate(table, 10**9, 10**12)
    assert "warning" not in explain_rate(table, 10**9, 10**12)
    large = table.model_copy(update={"batch_tokens": 5 * 10**6})
    assert "warning: above 4M" in explain_rate(large, 10**9, 10**12)


def test_a_given_rate_goes_before_the_step_law() -> None:
    table = TrainTable(learning_rate=1e-2)
    assert peak_rate(table, 10**6, 10**6) == 1e-2
    assert peak_rate(TrainTable(), 10**9, 10**9) == default_rate(10**9, 10**9)
    assert "step law" in explain_rate(table, 10**6, 10**6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference_rate": 1e-4},
        {"reference_batch_tokens": 10**6},
        {"reference_rate": 1e-4, "reference_batch_tokens": 10**6, "learning_rate": 1e-3},
    ],
    ids=str,
)
def test_half_a_rule_or_two_rates_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="reference_rate"):
        TrainTable(**wrong)


@pytest.mark.parametrize("name", ROUND_SCHEDULES)
def test_rounds_share_one_curve_or_have_their_own(name: str) -> None:
    """Rounds of 100, 50 and 50 steps, a tenth of warm-up; in a curve of all 200 it takes 20."""
    first_steps = [0, 100, 150, 200]
    span = ROUND_SCHEDULES[name].function
    linear = SCHEDULES["linear"].function
    shares = [
        rate_share(step, span(first_steps, step), warmup_fraction=0.1, decay=linear)
        for step in range(200)
    ]
    rises = [step for step in range(1, 200) if shares[step] > shares[step - 1]]
    if name == "continue":
        assert rises == list(range(1, 20))
    else:
        assert rises == [*range(1, 10), *range(100, 105), *range(150, 155)]
        assert shares[104] == shares[154] == 1.0


def test_inherited_weights_learn_at_a_third_of_the_law_and_as_told_at_any_rate() -> None:
    law = default_rate(10**6, 10**6)
    assert peak_rate(TrainTable(), 10**6, 10**6, inherited=True) == pytest.approx(law / 3)
    assert "a third of the step law" in explain_rate(TrainTable(), 10**6, 10**6, inherited=True)
    told = TrainTable(learning_rate=1e-2)
    assert peak_rate(told, 10**6, 10**6, inherited=True) == 1e-2
    assert "as given" in explain_rate(told, 10**6, 10**6, inherited=True)
