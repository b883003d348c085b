"""The class against plain NumPy, against the Llama it starts as, and as others load it.

T tokens, D hidden, V vocabulary, H heads, K key/value heads, E head width, F FFN neurons.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from math import erf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.checkpoint import load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.cost import count_params, flops_per_token, params_by_part
from pocketlm.model.family import load_family, tensors_of
from pocketlm.model.network import register_own_class
from pocketlm.model.neutral import from_llama
from pocketlm.model.pangu_pi import PanguPiConfig, PanguPiForCausalLM
from pocketlm.model.shape import check_shape
from pocketlm.model.start import base_config, constant
from pocketlm.model.timing import greedy_logits

SIZES = [(1, 1), (2, 3), (3, 0), (4, 5)]
IDS = torch.tensor([[5, 300, 17, 42, 0, 99, 8, 211, 63, 2, 150, 31]])
erf_of = np.vectorize(erf)


@pytest.fixture(scope="module")
def llama(tiny_parent: Path) -> Child:
    return load_child(tiny_parent)


@pytest.fixture(scope="module")
def stirred(llama: Child) -> Child:
    return stir(convert(llama, 2, 3))


def convert(llama: Child, num_activations: int = 2, shortcut_width: int | None = None) -> Child:
    rng = torch.Generator().manual_seed(0)
    return from_llama(
        llama, num_activations=num_activations, shortcut_width=shortcut_width, rng=rng
    )


def stir(child: Child) -> Child:
    """Random values everywhere, so that no part is neutral and no gain is one."""
    rng = torch.Generator().manual_seed(1)
    noise = {
        n: torch.empty(t.shape).normal_(0, 0.4, generator=rng) for n, t in child.tensors.items()
    }
    return replace(child, tensors={n: t + noise[n] for n, t in child.tensors.items()})


def new_parameters(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {n: p for n, p in network.named_parameters() if ".shortcut." in n or ".act_fn." in n}


# ---- the forward pass ---------------------------------------------------------------------------


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf_of(x / np.sqrt(2)))


def rms_norm(x_TD: np.ndarray, gain_D: np.ndarray) -> np.ndarray:
    return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + 1e-6) * gain_D


def rotate(x_THE: np.ndarray) -> np.ndarray:
    """Halves of each head turned against each other by position x frequency."""
    num_tokens, _, width = x_THE.shape
    angle_TE = np.arange(num_tokens)[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)
    cos, sin = np.cos(angle_TE)[:, None], np.sin(angle_TE)[:, None]
    left, right = np.split(x_THE, 2, axis=-1)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def attention(x_TD: np.ndarray, w: Mapping[str, np.ndarray], width: int) -> np.ndarray:
    num_tokens = len(x_TD)
    q, k, v = (
        (x_TD @ w[f"self_attn.{name}_proj.weight"].T).reshape(num_tokens, -1, width)
        for name in "qkv"
    )
    q, k = rotate(q), rotate(k)
    group = q.shape[1] // k.shape[1]
    heads = []
    for h in range(q.shape[1]):
        scores_TT = q[:, h] @ k[:, h // group].T / np.sqrt(width)
        scores_TT[np.triu_indices(num_tokens, 1)] = -np.inf
        weights_TT = np.exp(scores_TT - scores_TT.max(-1, keepdims=True))
        heads.append(weights_TT / weights_TT.sum(-1, keepdims=True) @ v[:, h // group])
    return np.concatenate(heads, axis=-1) @ w["self_attn.o_proj.weight"].T


def reference_logits(child: Child, ids_T: np.ndarray) -> np.ndarray:
    """logits_TV by the formulas of the module's docstring, float64."""
    tensors = {name: tensor.double().numpy() for name, tensor in child.tensors.items()}
    shape, table_VD = child.shape, tensors["model.embed_tokens.weight"]
    x_TD = table_VD[ids_T]
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        w = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        normed_TD = rms_norm(x_TD, w["input_layernorm.weight"])
        x_TD = x_TD + attention(normed_TD, w, shape.head_dim)
        if shape.shortcut:
            inner_TW = gelu(normed_TD @ w["shortcut.in_proj.weight"].T)
            x_TD = x_TD + inner_TW @ w["shortcut.out_proj.weight"].T
        normed_TD = rms_norm(x_TD, w["post_attention_layernorm.weight"])
        gate_TF = normed_TD @ w["mlp.gate_proj.weight"].T
        series_TF = sum(
            silu(max(1, i) * (w[f"mlp.act_fn.{i}.scale"] * gate_TF + w[f"mlp.act_fn.{i}.shift"]))
            for i in range(shape.series)
        )
        up_TF = normed_TD @ w["mlp.up_proj.weight"].T
        x_TD = x_TD + (series_TF * up_TF) @ w["mlp.down_proj.weight"].T
    return rms_norm(x_TD, tensors["model.norm.weight"]) @ table_VD.T


@pytest.mark.parametrize(("num_activations", "shortcut_width"), SIZES)
def test_equals_plain_numpy(llama: Child, num_activations: int, shortcut_width: int) -> None:
    child = stir(convert(llama, num_activations, shortcut_width))
    with torch.no_grad():
        logits_TV = child.network()(IDS).logits[0].numpy()
    expected_TV = reference_logits(child, IDS[0].numpy())
    assert expected_TV.std() > 0.5
    np.testing.assert_allclose(logits_TV, expected_TV, atol=1e-4, rtol=1e-4)


def test_every_part_counts(stirred: Child) -> None:
    """The comparison above would not see a part that does nothing."""
    ids = IDS[0].numpy()
    expected = reference_logits(stirred, ids)
    for name in new_parameters(stirred.network()):
        without = {**stirred.tensors, name: torch.zeros_like(stirred.tensors[name])}
        assert (
            np.abs(reference_logits(replace(stirred, tensors=without), ids) - expected).max() > 0.01
        )


# ---- the neutral start --------------------------------------------------------------------------


@pytest.mark.parametrize(("num_activations", "shortcut_width"), [*SIZES, (2, None)])
def test_a_llama_keeps_its_logits(
    llama: Child, num_activations: int, shortcut_width: int | None
) -> None:
    child = convert(llama, num_activations, shortcut_width)
    check_shape(child.shape)
    for attention_name in ("sdpa", "eager"):
        before = llama.network(attention=attention_name)(IDS).logits
        assert torch.equal(child.network(attention=attention_name)(IDS).logits, before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(child.network()(IDS).logits, llama.network()(IDS).logits)


def test_transformers_starts_it_neutral_too(llama: Child, tiny_parent: Path) -> None:
    """Users of the class alone: new weights, and a Llama's folder read into it."""
    with torch.random.fork_rng():
        converted = PanguPiForCausalLM.from_pretrained(tiny_parent).eval()
        fresh = PanguPiForCausalLM(PanguPiConfig(**_class_settings(convert(llama))))
    assert torch.equal(converted(IDS).logits, llama.network()(IDS).logits)
    for name, parameter in new_parameters(fresh).items():
        if name.endswith("in_proj.weight"):
            assert 0.1 < parameter.std() < 0.3  # initializer_range is 0.2
        else:
            assert torch.all(parameter == (1.0 if name.endswith("act_fn.0.scale") else 0.0))


def _class_settings(child: Child) -> dict[str, object]:
    return {k: v for k, v in child.config.items() if k not in ("model_type", "architectures")}


def test_no_term_is_dead(llama: Child) -> None:
    """After one step all but W_in have moved, which waits for W_out, in every number; after two
    steps W_in too."""
    network = convert(llama, 3, 4).network()
    before = {n: p.detach().clone() for n, p in new_parameters(network).items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    for step in (1, 2):
        optimizer.zero_grad()
        network(IDS, labels=IDS).loss.backward()
        optimizer.step()
        for name, parameter in new_parameters(network).items():
            waits = step == 1 and name.endswith("in_proj.weight")
            moved = (parameter != before[name]).float().mean()
            assert moved == 0 if waits else moved > 0.99, name


def test_later_terms_part_ways(llama: Child) -> None:
    """Terms that start alike must not stay alike: their shares of the sum differ."""
    network = convert(llama, 3).network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        network(IDS, labels=IDS).loss.backward()
        optimizer.step()
    gate_1F = torch.ones(1, llama.shape.ffn)
    _, second, third = network.model.layers[0].mlp.act_fn
    share = second(gate_1F).abs().mean()
    assert (second(gate_1F) - third(gate_1F)).abs().mean() > 0.2 * share


def test_only_a_plain_llama_is_converted(llama: Child) -> None:
    with pytest.raises(ParentError, match=r"'pangu_pi': only a llama"):
        convert(convert(llama))
    gelu_child = replace(llama, config={**llama.config, "hidden_act": "gelu"})
    with pytest.raises(ParentError, match=r"hidden_act = 'gelu': a pangu_pi has 'silu' only"):
        convert(gelu_child)
    with pytest.raises(RecipeError, match="series = 0, shortcut = 3"):
        convert(llama, 0, 3)
    with pytest.raises(RecipeError, match="series = 2, shortcut = -1"):
        convert(llama, 2, -1)


def test_config(llama: Child) -> None:
    assert PanguPiConfig(hidden_size=2048, num_attention_heads=16).shortcut_width == 64
    assert PanguPiConfig(hidden_size=16, num_attention_heads=2).shortcut_width == 1
    assert PanguPiConfig().num_activations == 2
    with pytest.raises(ValueError, match="num_activations = 0"):
        PanguPiConfig(num_activations=0)
    with pytest.raises(ValueError, match="shortcut_width = -1"):
        PanguPiConfig(shortcut_width=-1)


# ---- as a family --------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_activations", "shortcut_width"), SIZES)
@pytest.mark.parametrize("tied", [True, False])
def test_cost_is_exact(llama: Child, num_activations: int, shortcut_width: int, tied: bool) -> None:
    shape = replace(
        llama.shape,
        family="pangu_pi",
        tied=tied,
        series=num_activations,
        shortcut=shortcut_width,
    )
    config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
    child = constant(config, shape, torch.Generator().manual_seed(0))
    assert child.shape == shape
    network = child.network(attention="eager")
    named = dict(network.named_parameters())
    assert count_params(shape) == sum(p.numel() for p in named.values())
    assert {p.name: p.dims for p in tensors_of(shape)} == {
        n: tuple(p.shape) for n, p in named.items()
    }
    parts = params_by_part(shape)
    assert parts["ffn"] == sum(p.numel() for n, p in named.items() if ".mlp." in n)
    assert parts.get("shortcut", 0) == sum(p.numel() for n, p in named.items() if "shortcut" in n)
    with FlopCounterMode(display=False) as counter:
        network(IDS)
    assert counter.get_total_flops() == IDS.numel() * flops_per_token(shape, IDS.numel())


def test_a_shape_says_what_it_has(stirred: Child) -> None:
    assert str(stirred.shape).endswith("tied, 2 activations, shortcut 3")
    with pytest.raises(RecipeError, match="series = 2, shortcut = 3: a pangu_pi has"):
        check_shape(replace(stirred.shape, family="llama"))
    with pytest.raises(RecipeError, match="series = 1: the parent has 2; keep it"):
        check_shape(replace(stirred.shape, series=1), stirred.shape)
    with pytest.raises(RecipeError, match="shortcut = 4: the parent has 3"):
        check_shape(replace(stirred.shape, shortcut=4), stirred.shape)


# ---- generation, training, files ----------------------------------------------------------------


def test_cached_generation_equals_uncached(stirred: Child) -> None:
    network, ids = stirred.network(), IDS[0].tolist()
    steps = greedy_logits(network, ids)
    for _ in range(12):
        token, logits_V = next(steps)
        with torch.no_grad():
            whole_V = network(torch.tensor([ids]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits_V, whole_V, atol=1e-4, rtol=1e-4)
        assert token == int(whole_V.argmax())
        ids.append(token)
    generated = network.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert generated[0].tolist() == ids


def test_checkpointed_gradients_and_hidden_states(stirred: Child) -> None:
    grads, checkpointed_blocks = [], []

    def checkpoint(function, *inputs):
        checkpointed_blocks.append(function)
        return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)

    for checkpointed in (False, True):
        network = stirred.network().train()
        if checkpointed:
            for module in network.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = True
                    module._gradient_checkpointing_func = checkpoint
        network(IDS, labels=IDS, use_cache=False).loss.backward()
        grads.append({n: p.grad for n, p in network.named_parameters()})
    assert len(checkpointed_blocks) == stirred.shape.layers
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)
    hidden = stirred.network()(IDS, output_hidden_states=True).hidden_states
    assert [tuple(h.shape) for h in hidden] == [(1, IDS.numel(), stirred.shape.hidden)] * 3


def test_exports_as_a_graph(stirred: Child) -> None:
    """What ONNX conversion starts from, with batch and length left free."""
    network = stirred.network()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=200)
    program = torch.export.export(
        network,
        (),
        {"input_ids": IDS.reshape(2, 6), "use_cache": False},
        dynamic_shapes={"input_ids": {0: batch, 1: length}, "use_cache": None},
        strict=False,
    )
    with torch.no_grad():
        for ids in (IDS.reshape(2, 6), IDS, IDS.reshape(3, 4)):
            traced = program.module()(input_ids=ids, use_cache=False).logits
            expected = network(ids, use_cache=False).logits
            torch.testing.assert_close(traced, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def saved(stirred: Child, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_child(stirred, folder)
    return folder


def test_saved_and_read_back(stirred: Child, saved: Path) -> None:
    again = load_child(saved)
    assert again.shape == stirred.shape
    assert again.tensors.keys() == stirred.tensors.keys()
    assert torch.equal(again.network()(IDS).logits, stirred.network()(IDS).logits)
    register_own_class("pangu_pi")
    network, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(network.eval()(IDS).logits, stirred.network()(IDS).logits)


def test_code_of_a_folder_is_not_run_here(stirred: Child, saved: Path, tmp_path: Path) -> None:
    save_child(stirred, tmp_path)
    (tmp_path / "pangu_pi.py").write_text("raise SystemExit('run')")
    assert torch.equal(load_child(tmp_path).network()(IDS).logits, stirred.network()(IDS).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    for auto_map in ({**config["auto_map"], "AutoTokenizer": "x.Y"}, {"AutoConfig": "a--b.C"}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
        with pytest.raises(ParentError, match="custom code"):
            open_checkpoint(tmp_path)
    del config["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).shape == stirred.shape
    del config["shortcut_width"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParentError, match="no 'shortcut_width'"):
        open_checkpoint(tmp_path)


def test_transformers_saves_it_with_its_code(stirred: Child, saved: Path, tmp_path: Path) -> None:
    stirred.network().save_pretrained(tmp_path)
    assert (tmp_path / "pangu_pi.py").read_bytes() == (saved / "pangu_pi.py").read_bytes()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == load_family("pangu_pi").auto_map
    again = load_child(tmp_path)
    assert all(torch.equal(again.tensors[n], t) for n, t in stirred.tensors.items())


_ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM
network, report = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, output_loading_info=True)
assert not any(report.values()), report
ids = torch.load(sys.argv[2], weights_only=True)
with torch.inference_mode():
    logits = network.eval()(ids).logits
    tokens = network.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
network.save_pretrained(sys.argv[4])
assert not [name for name in sys.modules if name.partition(".")[0] == "pocketlm"]
torch.save({"logits": logits, "tokens": tokens}, sys.argv[3])
"""


def test_runs_where_pocketlm_is_not(stirred: Child, saved: Path, tmp_path: Path) -> None:
    """Another process, by the code in the folder: same logits, same tokens, saves itself again."""
    given, answer, copy = tmp_path / "ids.pt", tmp_path / "answer.pt", tmp_path / "copy"
    torch.save(IDS, given)
    places = {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", _ELSEWHERE, saved, given, answer, copy],
        env={**os.environ, **places, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        check=True,
    )
    result, network = torch.load(answer, weights_only=True), stirred.network()
    with torch.inference_mode():
        assert torch.equal(result["logits"], network(IDS).logits)
    expected = network.generate(IDS, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert torch.equal(result["tokens"], expected)
    assert torch.equal(load_child(copy).network()(IDS).logits, network(IDS).logits)
