"""Numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.units import (
    BITS_PER_NAT,
    GB,
    GIB,
    MB,
    MIB,
    show_bytes,
    show_count,
    show_seconds,
)

STEPS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1_234_567, "1.23M"),
        (999_600, "1M"),
        (0.95e9, "950M"),
        (1.6e12, "1.6T"),
        (-1500, "-1.5k"),
        (0.333, "0.333"),
    ],
)
def test_counts(count: float, shown: str) -> None:
    assert show_count(count) == shown


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (7_800_000, "7.8 MB"), (4.1e9, "4.1 GB")],
)
def test_bytes(num_bytes: float, shown: str) -> None:
    assert show_bytes(num_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (75.2, "1m 15s"),
        (3599.6, "1h 00m"),
        (4000, "1h 06m"),
        (90_000, "25h 00m"),
    ],
)
def test_seconds(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


@given(st.integers(min_value=1, max_value=10**15))
def test_a_shown_count_is_within_half_a_per_cent(count: int) -> None:
    shown = show_count(count)
    value = float(shown.rstrip("kMGT")) * STEPS.get(shown[-1], 1)
    assert value == pytest.approx(count, rel=0.005)


@given(st.integers(min_value=1, max_value=10**15))
def test_no_more_than_three_digits_before_a_step(count: int) -> None:
    assert len(show_count(count).rstrip("kMGT")) <= 4 or count >= 999.5 * 10**12


def test_constants() -> None:
    assert (MB, GB) == (10**6, 10**9)
    assert (MIB, GIB) == (2**20, 2**30)
    assert math.log(2) * BITS_PER_NAT == pytest.approx(1)
