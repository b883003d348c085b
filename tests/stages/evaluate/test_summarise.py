"""The ratio estimator and its bootstrap interval."""

import sys

import numpy as np
import pytest

from pocketlm.stages.evaluate.summarise import summarise


def _data(rng: np.random.Generator, num_documents: int = 200, noise: float = 0.3):
    bytes_N = rng.integers(100, 2000, size=num_documents)
    rate_N = 1.5 + noise * rng.standard_normal(num_documents)
    return bytes_N * rate_N, bytes_N


def test_the_value_is_total_bits_over_total_bytes() -> None:
    bits_N, bytes_N = np.array([8.0, 30.0]), np.array([4, 10])
    rng = np.random.default_rng(0)
    own = summarise({"child": bits_N}, bytes_N, ["a", "b"], rng=rng)
    assert own.overall["child"].value == pytest.approx(38 / 14)
    assert own.by_source["a"]["child"].value == pytest.approx(2.0)
    assert own.macro["child"].value == pytest.approx(2.5)


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        bits_N, bytes_N = _data(rng, 60)
        sources_N = ["a"] * 60
        own = summarise({"child": bits_N}, bytes_N, sources_N, resamples=300, rng=rng)
        interval = own.overall["child"]
        held += interval.low <= 1.5 <= interval.high
    assert 176 <= held <= 199  # 95 % of 200, four standard errors


def test_more_documents_give_a_narrower_interval() -> None:
    def width(num_documents: int) -> float:
        rng = np.random.default_rng(2)
        bits_N, bytes_N = _data(rng, num_documents)
        own = summarise({"child": bits_N}, bytes_N, ["a"] * num_documents, rng=rng)
        return own.overall["child"].high - own.overall["child"].low

    assert width(1600) == pytest.approx(width(100) / 4, rel=0.4)


def test_the_difference_is_paired() -> None:
    rng = np.random.default_rng(3)
    parent_N, bytes_N = _data(rng)
    child_N = parent_N + 0.1 * bytes_N
    models = {"child": child_N, "parent": parent_N}
    own = summarise(models, bytes_N, ["a"] * len(bytes_N), rng=rng)
    for end in (own.overall["difference"].low, own.overall["difference"].high):
        assert end == pytest.approx(0.1)
    assert own.overall["child"].high - own.overall["child"].low > 0.01


def test_the_same_generator_gives_the_same_interval() -> None:
    bits_N, bytes_N = _data(np.random.default_rng(4))
    first, second = (
        summarise({"child": bits_N}, bytes_N, ["a"] * 200, rng=np.random.default_rng(5))
        for _ in range(2)
    )
    assert first == second


def test_one_document_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    bits_N, bytes_N = np.array([9.0, 8.0, 7.0]), np.array([3, 4, 7])
    own = summarise({"child": bits_N}, bytes_N, ["a", "a", "b"], rng=rng)
    assert own.by_source["b"]["child"].low is None
    assert own.macro["child"].high is None
    assert own.overall["child"].low is not None


def test_large_and_small_draws_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    bits_N, bytes_N = _data(np.random.default_rng(6))

    def interval():
        rng = np.random.default_rng(7)
        return summarise({"child": bits_N}, bytes_N, ["a"] * 200, resamples=50, rng=rng).overall

    whole = interval()
    # The package binds the function under the module's name.
    monkeypatch.setattr(sys.modules[summarise.__module__], "_DRAWN_AT_ONCE", 1000)
    assert interval() == whole
