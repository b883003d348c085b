"""Bytes of weights and memory, against files, autograd and an optimizer."""

from pathlib import Path

import pytest
import torch

from pocketlm.errors import RecipeError
from pocketlm.model.cost import (
    WEIGHT_FORMATS,
    activation_bytes,
    count_params,
    decode_bytes,
    decode_read_bytes,
    flops_per_token,
    kv_bytes_per_token,
    layer_outputs,
    training_bytes,
    training_flops_per_token,
    weight_bytes,
)
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config, constant


def shape_of(*, hidden: int = 64, ffn: int = 96, layers: int = 2, tied: bool = True) -> Shape:
    return Shape(family="llama", vocab_size=256, layers=layers, hidden=hidden, heads=4, kv_heads=2,
                 head_dim=16, ffn=ffn, tied=tied)  # fmt: skip


@pytest.mark.parametrize("weight_format", ["f32", "f16", "q8_0", "q5_0", "q4_0"])
@pytest.mark.parametrize("shape", [shape_of(), shape_of(hidden=72, tied=False)])
def test_weights_take_what_gguf_s_own_quantisation_takes(shape: Shape, weight_format: str) -> None:
    gguf = pytest.importorskip("gguf")
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    kind = gguf.GGMLQuantizationType[weight_format.upper()]
    total = 0
    for tensor in constant(config, shape, torch.Generator()).tensors.values():
        values = tensor.numpy()
        whole = values.ndim > 1 and values.shape[-1] % WEIGHT_FORMATS[weight_format].block == 0
        other = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.F16
        total += gguf.quantize(values, kind if whole else other).nbytes
    assert weight_bytes(shape, weight_format) == total


def test_bf16_is_two_bytes_a_parameter_and_unknown_formats_are_named(tmp_path: Path) -> None:
    shape = shape_of()
    assert weight_bytes(shape, "bf16") == 2 * count_params(shape)
    with pytest.raises(RecipeError, match=r"weight_format = 'q8'.*did you mean 'q8_0'"):
        weight_bytes(shape, "q8")


def test_memory_grows_with_context_by_the_cache() -> None:
    shape = shape_of()
    more = decode_bytes(shape, "q8_0", 300) - decode_bytes(shape, "q8_0", 100)
    assert more == 200 * kv_bytes_per_token(shape)
    assert decode_bytes(shape, "q8_0", 0) > weight_bytes(shape, "q8_0")


def test_a_token_reads_all_but_an_untied_embedding() -> None:
    tied, untied = shape_of(), shape_of(tied=False)
    for weight_format in WEIGHT_FORMATS:
        assert decode_read_bytes(tied, weight_format, 0) == weight_bytes(tied, weight_format)
        assert decode_read_bytes(untied, weight_format, 0) == weight_bytes(tied, weight_format)


@pytest.mark.parametrize("tied", [True, False])
def test_outputs_are_those_of_every_matrix_of_the_network_but_the_head(tied: bool) -> None:
    shape = shape_of(tied=tied)
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, shape, torch.Generator()).network()
    linear = [m for m in network.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 7 * shape.layers
    assert layer_outputs(shape) == sum(matrix.out_features for matrix in linear)


@pytest.mark.parametrize("shape", [shape_of(), shape_of(hidden=128, ffn=64, layers=4)])
def test_activations_are_what_autograd_keeps(shape: Shape) -> None:
    num_tokens = 2 * 48
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, shape, torch.Generator()).network()
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.Tensor] = {}  # holds them, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(num_tokens).reshape(2, -1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(ids, labels=ids).loss
    found = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    assert loss.isfinite()
    assert activation_bytes(shape, num_tokens) == pytest.approx(found, rel=0.05)


def test_training_state_is_weights_gradients_and_two_moments() -> None:
    shape = shape_of()
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    network = constant(config, shape, torch.Generator()).network()
    adam = torch.optim.AdamW(network.parameters())
    ids = torch.arange(8)[None]
    network(ids, labels=ids).loss.backward()
    adam.step()
    moments = [m for state in adam.state.values() for m in state.values() if m.ndim]
    parameters = list(network.parameters())
    state = sum(t.nbytes for t in (*parameters, *(p.grad for p in parameters), *moments))
    rest = activation_bytes(shape, 8) + 4 * 8 * shape.vocab_size
    assert training_bytes(shape, 8) == state + rest


def test_training_is_three_times_forward_over_causal_blocks() -> None:
    shape = shape_of()
    assert training_flops_per_token(shape, 127) == 3 * flops_per_token(shape, 64)
