"""Every pick keeps as many layers as asked, in order, and what it is named for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.stages.inherit.layers import LAYER_PICKS, ends


@given(st.integers(1, 80), st.data(), st.sampled_from(sorted(LAYER_PICKS)))
def test_distinct_ascending_and_complete(num_parent: int, data: st.DataObject, name: str) -> None:
    num_child = data.draw(st.integers(1, num_parent))
    kept = LAYER_PICKS[name].function(num_parent, num_child)
    assert len(kept) == num_child
    assert all(left < right for left, right in pairwise(kept))
    assert kept[0] == 0
    assert kept[-1] < num_parent
    if name != "first" and num_child > 1:
        assert kept[-1] == num_parent - 1
    if num_child == num_parent:
        assert kept == tuple(range(num_parent))


@pytest.mark.parametrize("num_child", [21, 22])
def test_the_paper_s_cut_keeps_both_ends(num_child: int) -> None:
    kept = ends(29, num_child)
    assert kept[:3] == (0, 1, 2)
    assert kept[-3:] == (26, 27, 28)
    gaps = [right - left for left, right in pairwise(kept)]
    assert max(gaps) <= 2  # the middle is thinned evenly: never two neighbours dropped
