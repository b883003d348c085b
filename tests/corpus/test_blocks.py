"""Blocks by number, and their order: a keyed permutation without a list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.blocks import Blocks, shuffled


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_shuffled_is_a_permutation(size: int, key: int) -> None:
    assert sorted(shuffled(np.arange(size), size=size, key=key).tolist()) == list(range(size))


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(2, 3000), st.integers(0, 2**63 - 1))
def test_a_position_needs_no_other(size: int, key: int) -> None:
    whole = shuffled(np.arange(size), size=size, key=key)
    half = np.arange(size // 2, size)
    assert (shuffled(half, size=size, key=key) == whole[half]).all()


def test_keys_give_unrelated_orders_that_forget_the_file() -> None:
    first = shuffled(np.arange(10_000), size=10_000, key=1)
    second = shuffled(np.arange(10_000), size=10_000, key=2)
    for other in (second, np.arange(10_000)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.04


def test_order_at_the_papers_scale_holds_no_list() -> None:
    """781 M blocks (1.6T tokens of 2,048): positions at both ends, at once."""
    where = shuffled(np.array([0, 781_249_999]), size=781_250_000, key=3)
    assert ((where >= 0) & (where < 781_250_000)).all()


def test_targets_are_the_inputs_shifted_by_one() -> None:
    blocks = Blocks(np.arange(101, dtype=np.uint16), 10)
    assert len(blocks) == 10
    batch = blocks.batch(np.array([0, 9]))
    assert batch.shape == (2, 11)
    assert (batch[1] == np.arange(90, 101)).all()
    assert batch.dtype == np.int64


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 0), (10, 0), (11, 1), (21, 2)])
def test_number_of_blocks(tokens: int, blocks: int) -> None:
    assert len(Blocks(np.zeros(tokens, np.uint16), 10)) == blocks
