"""Random first weights: the deviations each scheme promises, and nothing global drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pocketlm.model.family import family_names, load_family, tensors_of
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config

SHAPE = Shape(
    family="llama",
    vocab_size=500,
    layers=4,
    hidden=128,
    heads=4,
    kv_heads=2,
    head_dim=32,
    ffn=256,
    tied=False,
)
RESIDUAL_STD = {
    "constant": [0.02] * 4,
    "gpt2": [0.02 / np.sqrt(8)] * 4,
    "small": [np.sqrt(2 / (5 * 128))] * 4,
    "depth-scaled": [0.02 / np.sqrt(2 * (layer + 1)) for layer in range(4)],
}


@pytest.mark.parametrize("name", STARTS)
def test_deviations(name: str) -> None:
    config = base_config(SHAPE, max_positions=64, bos_id=0, eos_id=1)
    before = torch.get_rng_state()
    child = STARTS[name].function(config, SHAPE, torch.Generator().manual_seed(3))
    for placed in tensors_of(SHAPE):
        tensor = child.tensors[placed.name]
        assert tensor.dtype == torch.float32
        if tensor.ndim == 1:
            assert (tensor == 1).all()
            continue
        std = RESIDUAL_STD[name][0] if name == "small" else 0.02
        if placed.row.writes_residual:
            std = RESIDUAL_STD[name][placed.layer or 0]
        # 4 standard errors of a sample deviation
        assert tensor.std().item() == pytest.approx(std, rel=4 / np.sqrt(2 * tensor.numel()))
        assert abs(tensor.mean().item()) < 5 * std / np.sqrt(tensor.numel())
    again = STARTS[name].function(config, SHAPE, torch.Generator().manual_seed(3))
    assert all(torch.equal(again.tensors[n], t) for n, t in child.tensors.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_base_config_is_a_model() -> None:
    config = base_config(SHAPE, max_positions=64, bos_id=7, eos_id=9)
    child = STARTS["constant"].function(config, SHAPE, torch.Generator())
    assert child.shape == SHAPE
    network = child.network()
    assert network.config.bos_token_id == 7
    assert network.config.eos_token_id == 9
    assert network.config.rope_parameters["rope_theta"] == 10_000
    assert network.config.rms_norm_eps == 1e-5


@pytest.mark.parametrize("name", [n for n in family_names() if not load_family(n).auto_map])
@pytest.mark.parametrize("start", STARTS)
def test_every_family_starts(name: str, start: str) -> None:
    shape = replace(SHAPE, family=name, vocab_size=30, kv_heads=4)
    if name == "pangu_pi":
        shape = replace(shape, series=2, shortcut=3)
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=1)
    child = STARTS[start].function(config, shape, torch.Generator().manual_seed(0))
    assert child.shape == shape
    for placed in tensors_of(shape):
        tensor, neutral = child.tensors[placed.name], placed.row.neutral
        if neutral is None and tensor.ndim == 1:
            neutral = 0.0 if placed.name.endswith("bias") else 1.0
        assert neutral is None or (tensor == neutral).all()
    logits = child.network()(torch.arange(30)[None]).logits
    assert logits.isfinite().all()
    assert logits.std() > 0
