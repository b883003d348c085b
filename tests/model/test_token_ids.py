"""Every id of a config follows its token; what is no id of this vocabulary stays as it is."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model.token_ids import (
    fill_token_ids,
    new_ids_of,
    remap_token_ids,
    vocab_sizes,
    with_vocab_size,
)

NEW = new_ids_of([0, 2, 5, 7, 40])
GONE = 6


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("bos_token_id", 5, 2),
        ("eos_token_id", [2, GONE, 40], [1, 4]),
        ("eos_token_id", [GONE], None),
        ("pad_token_id", None, None),
        ("pad_token_id", -1, None),
        ("pad_token_id", GONE, None),
        ("decoder_start_token_id", 7, 3),
        ("forced_bos_token_id", GONE, None),
        ("image_token_index", 40, 4),
        ("pad_index", 2, 1),
        ("suppress_tokens", [GONE, 7], [3]),
        ("begin_suppress_tokens", [GONE], None),
        ("suppress_tokens", [], []),
        ("bad_words_ids", [[2, 5], [2, GONE], [40]], [[1, 2], [4]]),
        ("bad_words_ids", [[GONE]], None),
        ("force_words_ids", [[[2], [GONE]], [[GONE, 2]], [[5, 7]]], [[[1]], [[2, 3]]]),
        ("forced_decoder_ids", [[1, None], [2, 7], [3, GONE]], [[1, None], [2, 3]]),
        ("sequence_bias", [[[2, 7], -1.5], [[GONE], 2.0]], [[[1, 3], -1.5]]),
        ("sequence_bias", {(2, 7): -1.5, (GONE,): 2.0}, {(1, 3): -1.5}),
        ("sequence_bias", {"(2, 7)": -1.5, "(6,)": 2.0}, {"(1, 3)": -1.5}),
        ("lang_to_id", {"en": 7, "zh": GONE}, {"en": 3}),
        ("hidden_size", 5, 5),
        ("max_length", 40, 40),
        ("num_register_tokens", 2, 2),
        ("token_ids_are_kept", 2, 2),
        ("use_bos_token_id", True, True),
    ],
)
def test_each_kind_of_key(key: str, before: Any, after: Any) -> None:
    assert remap_token_ids({key: before}, NEW) == {key: after}


def test_vocab_size_where_it_stood_and_nested_configs() -> None:
    config = {
        "vocab_size": 60,
        "text_config": {"vocab_size": 64, "eos_token_id": 7},
        "decoder": {"bos_token_id": 40},
        "task_specific_params": {"sum": {"decoder_start_token_id": 2, "max_length": 7}},
        "qformer_config": {"vocab_size": 300, "pad_token_id": 2},
        "vision_config": {"hidden_size": 7},
    }
    untouched = copy.deepcopy(config)
    assert remap_token_ids(config, NEW) == {
        "vocab_size": 5,
        "text_config": {"vocab_size": 5, "eos_token_id": 3},
        "decoder": {"bos_token_id": 4},
        "task_specific_params": {"sum": {"decoder_start_token_id": 1, "max_length": 7}},
        "qformer_config": {"vocab_size": 300, "pad_token_id": 2},
        "vision_config": {"hidden_size": 7},
    }
    assert config == untouched
    assert vocab_sizes(config) == {60, 64}
    assert vocab_sizes({"encoder": {"vocab_size": 9}}) == {9}
    assert "vocab_size" not in remap_token_ids({"eos_token_id": 2}, NEW)


def test_other_vocabularies_are_told_apart() -> None:
    config = {"vocab_size": 60, "vocab_size_per_layer_input": 50, "type_vocab_size": 2}
    wider = with_vocab_size(config, 100, others=(40, 333))
    assert wider == {"vocab_size": 100, "vocab_size_per_layer_input": 333, "type_vocab_size": 2}


def test_defaults_that_a_file_leaves_out_are_written_out() -> None:
    defaults = {
        "vocab_size": 60,
        "eos_token_id": 2,
        "pad_token_id": None,
        "hidden_size": 8,
        "id2label": {0: "a"},
        "text_config": {"bos_token_id": 5, "hidden_size": 9},
        "vision_config": {"hidden_size": 9},
    }
    assert fill_token_ids({"eos_token_id": None}, defaults) == {
        "eos_token_id": None,
        "vocab_size": 60,
        "text_config": {"bos_token_id": 5},
    }


IDS = st.integers(0, 9)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "eos_token_id": st.none() | IDS | st.lists(IDS),
        "suppress_tokens": st.none() | st.lists(IDS),
        "bad_words_ids": st.lists(st.lists(IDS, min_size=1)),
        "forced_decoder_ids": st.lists(st.tuples(IDS, IDS | st.none()).map(list)),
        "sequence_bias": st.lists(st.tuples(st.lists(IDS, min_size=1), st.just(0.5)).map(list)),
        "text_config": st.fixed_dictionaries({"pad_token_id": st.none() | IDS}),
        "hidden_size": IDS,
    },
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(config=CONFIGS, first=st.permutations(range(10)), second=st.permutations(range(7)))
def test_two_steps_are_one(config: dict[str, Any], first: list[int], second: list[int]) -> None:
    """Identity changes nothing; cutting twice is cutting once to what stays in the end."""
    assert remap_token_ids(config, new_ids_of(range(10))) == config
    kept, then = sorted(first[:7]), sorted(second[:4])
    both = [kept[i] for i in then]
    twice = remap_token_ids(remap_token_ids(config, new_ids_of(kept)), new_ids_of(then))
    assert twice == remap_token_ids(config, new_ids_of(both))
