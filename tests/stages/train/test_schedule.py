"""Rates: from full to almost nothing, never up again, and the step law within its cap."""

import numpy as np
import pytest

from pocketlm.stages.train.schedule import MAX_DEFAULT_RATE, SCHEDULES, default_rate


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
