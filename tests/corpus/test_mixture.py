"""Weights: how often a pass reads each source."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.mixture import check_weights, mix
from pocketlm.corpus.row import Part, Span, TokenRow
from pocketlm.errors import RecipeError

SPANS = (Span("en", 0, 101), Span("zh", 101, 146), Span("code", 146, 152))  # 10, 4 and 0 blocks


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0, 5), st.floats(0, 5))
def test_every_block_is_read_as_often_as_its_weight_says(en: float, zh: float) -> None:
    mixture = mix(SPANS, {"en": en, "zh": zh}, 10)
    assert len(mixture) == round(10 * en) + round(4 * zh)
    if not len(mixture):
        return
    starts = Counter(mixture.starts(np.arange(len(mixture))).tolist())
    places = {"en": range(0, 100, 10), "zh": range(101, 141, 10)}
    assert set(starts) <= {*places["en"], *places["zh"]}
    for name, weight in (("en", en), ("zh", zh)):
        times = [starts[place] for place in places[name]]
        assert sum(times) == round(len(times) * weight)
        assert max(times) - min(times) <= 1


def test_any_block_again_by_its_number() -> None:
    mixture = mix(SPANS, {"en": 2.5, "zh": 0.5}, 10)
    whole = mixture.starts(np.arange(len(mixture)))
    some = np.array([26, 3, 24, 0])
    assert (mixture.starts(some) == whole[some]).all()


def test_without_weights_it_is_each_source_once() -> None:
    mixture = mix(SPANS, {}, 10)
    assert mixture.starts(np.arange(14)).tolist() == [*range(0, 100, 10), *range(101, 141, 10)]


def test_half_of_a_source_is_spread_over_it() -> None:
    mixture = mix([Span("en", 0, 10_001)], {"en": 0.5}, 10)
    starts = np.sort(mixture.starts(np.arange(len(mixture))))
    assert len(set(starts.tolist())) == 500
    in_quarters = np.histogram(starts, bins=4, range=(0, 10_000))[0]
    assert (np.abs(in_quarters - 125) < 35).all()


def test_blocks_of_a_mixture_stay_inside_their_source() -> None:
    parts = [Part(np.full(n, i), np.array([n]), np.array([n])) for i, n in enumerate((101, 45))]
    row = TokenRow(parts.__getitem__, tokens_P=[101, 45], bytes_P=[101, 45], sources_P=["en", "zh"])
    blocks = Blocks(row, 10, mixture=mix(row.spans, {"zh": 3}, 10))
    batch = blocks.batch(np.arange(len(blocks)))
    assert (batch == batch[:, :1]).all()
    assert Counter(batch[:, 0].tolist()) == {0: 10, 1: 12}
    assert blocks.num_bytes(np.arange(len(blocks))) == 220


def test_unknown_and_empty_mixtures_are_refused() -> None:
    with pytest.raises(RecipeError, match="no source 'fr'; there are en, zh"):
        check_weights({"fr": 1}, ["en", "zh"])
    with pytest.raises(RecipeError, match="every source has weight 0"):
        check_weights({"en": 0, "zh": 0}, ["en", "zh"])
