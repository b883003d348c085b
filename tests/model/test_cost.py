"""Counted from the family's data, checked against the instantiated model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pocketlm.model.cost import (
    count_params,
    flops_per_token,
    kv_bytes_per_token,
    params_by_part,
)
from pocketlm.model.family import family_names, load_family
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config, constant

SHAPE = Shape(
    family="llama",
    vocab_size=50,
    layers=2,
    hidden=32,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=24,
    tied=True,
)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return Shape(
        family="llama",
        vocab_size=draw(st.integers(3, 60)),
        layers=draw(st.integers(1, 3)),
        hidden=heads * draw(st.integers(1, 8)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 6)),
        ffn=draw(st.integers(1, 40)),
        tied=draw(st.booleans()),
    )


@settings(max_examples=30, deadline=None)
@given(shape=shapes())
def test_equals_the_instantiated_model(shape: Shape) -> None:
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, shape, torch.Generator()).network()
    assert count_params(shape) == sum(p.numel() for p in network.parameters())
    parts = params_by_part(shape)
    assert parts["norms"] == sum(p.numel() for n, p in network.named_parameters() if "norm" in n)
    assert parts["ffn"] == sum(p.numel() for n, p in network.named_parameters() if ".mlp." in n)
    assert (parts["head"] == 0) == shape.tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [n for n in family_names() if not load_family(n).auto_map])
def test_flops_equal_the_counted_matrix_products(family: str, tied: bool) -> None:
    shape = replace(SHAPE, family=family, tied=tied)
    if family == "pangu_pi":
        shape = replace(shape, series=2, shortcut=3)
    if family == "gpt_neox":
        shape = replace(shape, kv_heads=4, head_dim=8)
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, shape, torch.Generator()).network(attention="eager")
    num_tokens = 13
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.zeros(1, num_tokens, dtype=torch.long)).logits.sum()
    # Eager attention computes the masked half too: every token attends to all of them.
    forward = num_tokens * flops_per_token(shape, num_tokens)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert counter.get_total_flops() == 2 * forward


def test_kv_bytes_equal_the_cache() -> None:
    config = base_config(SHAPE, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, SHAPE, torch.Generator()).network()
    cache = network(torch.zeros(1, 5, dtype=torch.long)).past_key_values
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert stored == 5 * kv_bytes_per_token(SHAPE, bytes_per_value=4)


def test_the_paper_s_table() -> None:
    """1792 x 20 on 48k tokens, untied, MHA, FFN 2.77 x: 963M (section 2, derived)."""
    paper = Shape(
        family="llama",
        vocab_size=48_000,
        layers=20,
        hidden=1792,
        heads=14,
        kv_heads=14,
        head_dim=128,
        ffn=round(2.77 * 1792),
        tied=False,
    )
    assert round(count_params(paper) / 1e6) == 963
