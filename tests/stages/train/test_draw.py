"""The draw: the paper's distribution, at any number of blocks, however the work is divided."""

import numpy as np
import pytest

from pocketlm.stages.train.draw import _Source, draw, effective_size, numbers_of

HARD = {"num_units": 100_000, "num_drawn": 30_000}


def drawn(score_N: np.ndarray | None, num_units: int, num_drawn: int, key: int) -> np.ndarray:
    bits = draw(score_N, num_units=num_units, num_drawn=num_drawn, key=key)
    return numbers_of(bits, num_units)


def test_inclusion_equals_drawing_one_after_another() -> None:
    """Against sequential sampling without replacement with p = softmax(score)."""
    score_N = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    draws = 3000
    ours, theirs = np.zeros(5), np.zeros(5)
    p = np.exp(score_N) / np.exp(score_N).sum()
    for key in range(draws):
        ours[drawn(score_N, 5, 2, key)] += 1
        theirs[rng.choice(5, size=2, replace=False, p=p)] += 1
    # Four standard errors of a difference of two frequencies.
    assert np.abs(ours - theirs).max() / draws < 4 * np.sqrt(2 * 0.25 / draws)


def test_groups_of_one_draw_follow_softmax() -> None:
    """One key, many numbers: of K among N, a group of score s is drawn 1 - exp(-c exp(s)) often."""
    score_N = np.tile([0.0, 1.0, 2.0], 100_000).astype(np.float16)
    number_K = drawn(score_N, score_N.size, 60_000, key=1)
    share_G = np.bincount(number_K % 3) / 100_000
    rate_G = -np.log1p(-share_G)  # the race of exponentials: rates in the ratio of exp(score)
    np.testing.assert_allclose(rate_G / rate_G[0], np.exp([0, 1, 2]), rtol=0.04)


def test_equals_sorting_everything() -> None:
    """Against the K largest of all sums, ties to the smaller number."""
    rng = np.random.default_rng(2)
    for size, num_drawn in ((1, 1), (9, 4), (1000, 999), (70_000, 20_000)):
        score_N = rng.normal(size=size).astype(np.float16)
        source = _Source(score_N, size, 0, 0.5, 2**16)
        # The sums of a sweep that doubts every number, in order.
        _, number_N, sum_N = source.sweep(-np.inf, np.inf)
        assert (number_N == np.arange(size)).all()
        expected = np.sort(np.argsort(-sum_N, kind="stable")[:num_drawn])
        # splitmix64's finaliser keeps zero, so this is the draw of that source.
        bits = draw(score_N, num_units=size, num_drawn=num_drawn, key=0, temperature=0.5)
        assert (numbers_of(bits, size) == expected).all()


def test_the_bracket_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sample, also one whose first guess misses, as without: same draw."""
    score_N = np.random.default_rng(3).normal(size=HARD["num_units"]).astype(np.float16)
    whole = draw(score_N, **HARD, key=5)
    monkeypatch.setattr("pocketlm.stages.train.draw._SAMPLE", 1024)
    source = _Source(score_N, HARD["num_units"], 1, 1.0, 2**16)
    low, high = source.bracket(HARD["num_drawn"], 6.0)
    assert -np.inf < low < high < np.inf
    assert (draw(score_N, **HARD, key=5) == whole).all()
    monkeypatch.setattr("pocketlm.stages.train.draw._ERRORS", 1e-3)
    assert (draw(score_N, **HARD, key=5) == whole).all()


@pytest.mark.parametrize("chunk", [8, 1000, 2**17])
def test_chunks_and_threads_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    score_N = np.random.default_rng(4).normal(size=20_003).astype(np.float32)
    expected = draw(score_N, num_units=20_003, num_drawn=7_000, key=6)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = draw(score_N, num_units=20_003, num_drawn=7_000, key=6, chunk=chunk)
    assert (found == expected).all()


def test_equal_scores_are_drawn_equally_and_keys_differ() -> None:
    """Ten parts of the numbers get a tenth each; two keys share what chance would share."""
    one, other = (drawn(None, 2**18, 2**17, key) for key in (7, 8))
    parts = np.bincount(one * 10 // 2**18, minlength=10)
    expected = 2**17 / 10
    assert ((parts - expected) ** 2 / (expected / 2)).sum() < 27.9  # chi-square, 9 degrees, 0.1 %
    both = np.intersect1d(one, other).size / 2**17
    assert both == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2**17))
    constant = drawn(np.full(2**18, 1e4, np.float32), 2**18, 2**17, 7)
    assert (constant == one).all()  # exp(1e4) overflows; only differences count


def test_more_than_multinomials_limit() -> None:
    number_K = drawn(None, 2**24 + 5, 10, key=9)
    assert number_K.size == 10
    assert (np.diff(number_K.astype(np.int64)) > 0).all()


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="12, but there are 11"):
        draw(np.zeros(11), num_units=11, num_drawn=12, key=0)


def test_effective_size_between_one_and_all() -> None:
    assert effective_size(np.zeros(100)) == pytest.approx(100)
    assert effective_size(np.array([1e4, 0.0, 0.0])) == pytest.approx(1)
    score_N = np.random.default_rng(5).normal(size=100)
    assert 1 < effective_size(score_N, 0.5) < effective_size(score_N) < 100
    p_N = np.exp(score_N) / np.exp(score_N).sum()
    assert effective_size(score_N) == pytest.approx(1 / np.square(p_N).sum())
