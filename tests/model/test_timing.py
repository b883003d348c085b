"""Greedy generation through the cache, and its speed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.model.checkpoint import load_child
from pocketlm.model.timing import greedy_tokens, measure_speed, peak_bytes


@pytest.fixture(scope="module")
def network(tiny_parent: Path) -> torch.nn.Module:
    return load_child(tiny_parent).network()


def test_the_cache_changes_no_token(network) -> None:
    ids = [5, 17, 200]
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    assert greedy_tokens(network, ids[:3], new_tokens=12) == ids[3:]


def test_it_ends_before_the_stop_token(network) -> None:
    free = greedy_tokens(network, [5, 17], new_tokens=12)
    stop = free[6]
    assert greedy_tokens(network, [5, 17], new_tokens=12, stop=stop) == free[: free.index(stop)]
    assert greedy_tokens(network, [5, 17], new_tokens=0) == []


def test_spreads_are_ordered_and_agree_with_each_other(network) -> None:
    rng = np.random.default_rng(0)
    speed = measure_speed(network, prompt_tokens=8, new_tokens=4, repeats=3, rng=rng)
    for own in (speed.prefill_tokens_per_s, speed.decode_tokens_per_s, speed.first_token_ms):
        assert 0 < own.min <= own.median <= own.max
    first_s = speed.first_token_ms.median / 1000
    assert speed.prefill_tokens_per_s.median == pytest.approx(8 / first_s)


def test_measuring_draws_from_its_own_generator(network) -> None:
    before = torch.get_rng_state()
    measure_speed(network, prompt_tokens=2, new_tokens=2, repeats=1, rng=np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.is_inference_mode_enabled()


def test_the_peak_is_weights_cache_and_little_more(network) -> None:
    """Twice the context, twice the cache; and no less than what must be there."""
    weights = sum(parameter.nbytes for parameter in network.parameters())
    config = network.config
    a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    short, long = (peak_bytes(network, [1] * length, 4) - weights for length in (30, 60))
    assert short > 30 * a_token
    assert 0.8 * short < long - short < 2 * short
