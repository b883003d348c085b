"""Drawing hard blocks: the paper's distribution, at any scale of the losses."""

import numpy as np
import pytest

from pocketlm.stages.train.resample import RESAMPLERS, effective_size, softmax_loss, uniform


def test_inclusion_equals_drawing_one_after_another() -> None:
    """Against sequential sampling without replacement with p = softmax(loss)."""
    loss_N = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    draws = 6000
    ours, theirs = np.zeros(5), np.zeros(5)
    p = np.exp(loss_N) / np.exp(loss_N).sum()
    for _ in range(draws):
        ours[softmax_loss(loss_N, num_drawn=2, rng=rng)] += 1
        theirs[rng.choice(5, size=2, replace=False, p=p)] += 1
    # Four standard errors of a difference of two frequencies.
    assert np.abs(ours - theirs).max() / draws < 4 * np.sqrt(2 * 0.25 / draws)


def test_uniform_ignores_the_losses() -> None:
    loss_N = np.arange(10.0)
    counts = np.zeros(10)
    rng = np.random.default_rng(1)
    for _ in range(4000):
        counts[uniform(loss_N, num_drawn=5, rng=rng)] += 1
    assert np.abs(counts / 4000 - 0.5).max() < 0.04


@pytest.mark.parametrize("name", RESAMPLERS)
def test_distinct_ascending_and_seeded(name: str) -> None:
    loss_N = np.random.default_rng(2).normal(size=1000)
    draw = RESAMPLERS[name].function
    first = draw(loss_N, num_drawn=500, rng=np.random.default_rng(3))
    assert (np.diff(first) > 0).all()
    assert (first == draw(loss_N, num_drawn=500, rng=np.random.default_rng(3))).all()


def test_losses_where_exp_overflows_and_counts_above_multinomials_limit() -> None:
    loss_N = np.full(2**24 + 5, 1e4, np.float32)
    drawn = softmax_loss(loss_N, num_drawn=10, rng=np.random.default_rng(4))
    assert drawn.size == 10
    with pytest.raises(ValueError, match="11 blocks"):
        softmax_loss(np.zeros(11), num_drawn=12, rng=np.random.default_rng(4))


def test_effective_size_between_one_and_all() -> None:
    assert effective_size(np.zeros(100)) == pytest.approx(100)
    assert effective_size(np.array([1e4, 0.0, 0.0])) == pytest.approx(1)
    assert 1 < effective_size(np.random.default_rng(5).normal(size=100)) < 100
