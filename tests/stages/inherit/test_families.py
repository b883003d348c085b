"""Every family: the parent itself at its own shape, and no more than what left where it is cut."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.checkpoint import Checkpoint, load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.cost import count_params
from pocketlm.model.family import Placed, load_family, tensors_of
from pocketlm.model.shape import Shape, config_with
from pocketlm.stages.inherit import LAYER_PICKS, NEURON_SCORES, inherit
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.neurons import choose_units

IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(5))
EVERY_TOKEN = np.arange(60)
# All but GPT-NeoX: a LayerNorm also takes the mean away, which channels of zeros change.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2")
RMS_NORMS = (*FAMILIES, "llama-biases", "qwen3-biases", "smollm3-biases", "olmo2-biases")


def seen(parent: "Checkpoint") -> Evidence:
    """What a method that looks at weights only is given."""
    return Evidence(parent=parent, kept_V=EVERY_TOKEN, rng=rng())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def in_transformers(folder: Path) -> PreTrainedModel:
    network, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network.eval()


def logits(network: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = network(IDS).logits
    return out


def narrower(shape: Shape) -> Shape:
    """Two thirds of every width, three layers of four."""
    return replace(
        shape,
        layers=3,
        hidden=32,
        heads=4,
        kv_heads=shape.kv_heads * 2 // 3,
        ffn=24,
    )


@pytest.mark.parametrize(
    ("tied", "dtype", "shards"),
    [(False, "float32", 1), (True, "bfloat16", 3), (False, "float16", 2), (True, "float32", 1)],
)
def test_identity(
    variant: str, family_parent: Callable[..., Path], tied: bool, dtype: str, shards: int
) -> None:
    """All of the parent, whatever wrote it, computes what transformers computes from it."""
    folder = family_parent(variant, tied=tied, dtype=dtype, shards=shards)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards > 1)
    checkpoint, parent = open_checkpoint(folder), in_transformers(folder)
    assert checkpoint.shape.tied == tied
    assert count_params(checkpoint.shape) == sum(p.numel() for p in parent.parameters())
    child = inherit(checkpoint, checkpoint.shape, EVERY_TOKEN, rng=rng())
    assert torch.equal(logits(child.network()), logits(parent))


def test_every_tensor_decides_the_logits(variant: str, family_parent: Callable[..., Path]) -> None:
    """Or identity would not see that one is lost."""
    child = load_child(family_parent(variant))
    before = logits(child.network())
    rotary = child.config.get("no_rope_layers", [1] * 4)
    for placed in tensors_of(child.shape):
        if placed.name.endswith("k_proj.bias") and not rotary[placed.layer or 0]:
            continue  # without rotary position it shifts all scores of a query alike
        flipped = child.tensors[placed.name].flip(0)
        other = replace(child, tensors={**child.tensors, placed.name: flipped})
        assert not torch.allclose(logits(other.network()), before, atol=1e-4), placed.name


def test_a_child_reloads_and_generates(
    variant: str, family_parent: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(family_parent(variant))
    shape = narrower(checkpoint.shape)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    save_child(child, tmp_path)
    assert load_child(tmp_path).shape == shape
    network = in_transformers(tmp_path)
    assert torch.equal(logits(network), logits(child.network()))
    assert count_params(shape) == sum(p.numel() for p in network.parameters())
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = network.generate(IDS[:1], use_cache=True, **settings)
    assert cached.shape == (1, 38)
    assert torch.equal(cached, network.generate(IDS[:1], use_cache=False, **settings))


# --- what is silent leaves first, and nothing changes


def zeroed(tensor: torch.Tensor, axis: int, units: torch.Tensor, num_units: int) -> torch.Tensor:
    """`tensor` without the numbers of `units` along `axis`, a unit being some entries in a row."""
    kept = torch.ones(num_units)
    kept[units] = 0.0
    entries = kept.repeat_interleave(tensor.shape[axis] // num_units)
    return tensor * entries.reshape([-1 if a == axis else 1 for a in range(tensor.ndim)])


def with_axis(shape: Shape, *axes: str) -> Iterator[tuple[Placed, int]]:
    """Tensors that run over one of `axes`, and where."""
    for placed in tensors_of(shape):
        for position, axis in enumerate(placed.row.axes):
            if axis in axes:
                yield placed, position


def silenced(child: Child, axes: tuple[str, ...], units: list[int], num_units: int) -> Child:
    tensors = dict(child.tensors)
    for placed, axis in with_axis(child.shape, *axes):
        tensors[placed.name] = zeroed(
            tensors[placed.name], axis, torch.tensor(units), num_units
        ).contiguous()
    return replace(child, tensors=tensors)


def saved(child: Child, folder: Path) -> Checkpoint:
    save_child(child, folder)
    return open_checkpoint(folder)


@pytest.mark.parametrize("score", ["l1", "l2"])
def test_silent_neurons(
    variant: str, family_parent: Callable[..., Path], tmp_path: Path, score: str
) -> None:
    parent = silenced(load_child(family_parent(variant)), ("ffn",), list(range(0, 40, 2)), 40)
    checkpoint = saved(parent, tmp_path)
    shape = replace(checkpoint.shape, ffn=20)
    child = inherit(checkpoint, shape, EVERY_TOKEN, neurons=score, rng=rng())
    same = logits(child.network())
    torch.testing.assert_close(same, logits(parent.network()), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("variant", RMS_NORMS)
def test_silent_heads_and_channels(
    variant: str, family_parent: Callable[..., Path], tmp_path: Path
) -> None:
    """A third of the groups and of the channels. RMSNorm divides by a mean over all of them, so
    gains and epsilon take the change of their number back."""
    parent = load_child(family_parent(variant))
    shape, group = parent.shape, parent.shape.heads // parent.shape.kv_heads
    silent_K = [0] if group == 2 else [1, 4]
    heads = [k * group + member for k in silent_K for member in range(group)]
    parent = silenced(parent, ("heads",), heads, shape.heads)
    parent = silenced(parent, ("kv_heads",), silent_K, shape.kv_heads)
    parent = silenced(parent, ("hidden",), list(range(0, 48, 3)), 48)
    checkpoint = saved(parent, tmp_path)
    small = replace(shape, hidden=32, heads=4, kv_heads=shape.kv_heads * 2 // 3)
    child = inherit(checkpoint, small, EVERY_TOKEN, rng=rng())
    tensors = dict(child.tensors)
    for placed, _ in with_axis(small, "hidden", "heads", "kv_heads"):
        if placed.row.part == "norms":
            tensors[placed.name] = tensors[placed.name] * (3 / 2) ** 0.5
    config = {**child.config, "rms_norm_eps": child.config["rms_norm_eps"] * 3 / 2}
    same = logits(Child(config=config, tensors=tensors).network())
    torch.testing.assert_close(same, logits(parent.network()), atol=5e-5, rtol=5e-5)


def test_silent_layers_take_their_settings_along(
    variant: str, family_parent: Callable[..., Path], tmp_path: Path
) -> None:
    """Rotary position and attention windows stay with the layers they belong to, said or not."""
    parent = load_child(family_parent(variant))
    tensors = dict(parent.tensors)
    for placed in tensors_of(parent.shape):
        adds = placed.row.writes_residual or (
            placed.row.is_bias and placed.row.axes == ("hidden",) and "norm" not in placed.name
        )
        if placed.layer == 1 and adds:
            tensors[placed.name] = torch.zeros(placed.dims)
    parent = replace(parent, tensors=tensors)
    checkpoint = saved(parent, tmp_path)
    shape = replace(checkpoint.shape, layers=3)
    assert LAYER_PICKS["ends"].function(seen(checkpoint), 3) == (0, 2, 3)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    assert torch.equal(logits(child.network()), logits(parent.network()))
    if variant in ("qwen2", "smollm3"):  # their patterns follow from a number
        said = {k: v for k, v in parent.config.items() if k not in load_family(variant).per_layer}
        unsaid = inherit(replace(checkpoint, config=said), shape, EVERY_TOKEN, rng=rng())
        for key in load_family(variant).per_layer:
            assert key not in said
            assert unsaid.config[key] == child.config[key]


@pytest.mark.parametrize("variant", ["gpt_neox", "gpt_neox-plain"])
def test_fused_heads_stay_whole(variant: str, family_parent: Callable[..., Path]) -> None:
    """A child's attention is the parent's attention without the heads that left."""
    checkpoint = open_checkpoint(family_parent(variant))
    shape = replace(checkpoint.shape, hidden=32, heads=4, kv_heads=4)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    scores = NEURON_SCORES["l2"].function(seen(checkpoint), range(4))
    units = choose_units(scores, checkpoint.shape, shape)
    parent = load_child(checkpoint.folder)
    gone = sorted(set(range(6)) - set(units.heads[2].tolist()))
    masked = dict(parent.tensors)
    name = "gpt_neox.layers.2.attention.dense.weight"
    masked[name] = zeroed(masked[name], 1, torch.tensor(gone), 6)
    stream_TD = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    wide_TD = torch.zeros(1, 12, 48).index_copy(2, torch.from_numpy(units.hidden), stream_TD)
    small = attention(child, stream_TD)
    wide = attention(replace(parent, tensors=masked), wide_TD)[..., units.hidden]
    torch.testing.assert_close(small, wide, atol=1e-5, rtol=1e-5)


def attention(child: Child, stream: torch.Tensor) -> torch.Tensor:
    """What the third layer's attention adds to `stream`."""
    body = child.network().gpt_neox
    places = torch.arange(stream.shape[1])[None]
    with torch.no_grad():
        out = body.layers[2].attention(
            stream,
            attention_mask=None,
            position_embeddings=body.rotary_emb(stream, position_ids=places),
        )
    added: torch.Tensor = out[0]
    return added


def test_scores_take_every_number_of_a_unit(family_parent: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(family_parent("gpt_neox"))
    tensors = {n: t.double().square() for n, t in load_child(checkpoint.folder).tensors.items()}
    scores = NEURON_SCORES["l2"].function(seen(checkpoint), (2,))
    layer = "gpt_neox.layers.2."
    fused_HKD = tensors[f"{layer}attention.query_key_value.weight"].reshape(6, 24, 48)
    bias_HK = tensors[f"{layer}attention.query_key_value.bias"].reshape(6, 24)
    dense_DHK = tensors[f"{layer}attention.dense.weight"].reshape(48, 6, 8)
    by_hand = fused_HKD.sum((1, 2)) + bias_HK.sum(1) + dense_DHK.sum((0, 2))
    np.testing.assert_allclose(scores.heads[0], by_hand.sqrt().numpy())
    up, down = (tensors[f"{layer}mlp.dense_{name}.weight"] for name in ("h_to_4h", "4h_to_h"))
    by_hand = up.sum(1) + tensors[f"{layer}mlp.dense_h_to_4h.bias"] + down.sum(0)
    np.testing.assert_allclose(scores.ffn[0], by_hand.sqrt().numpy())
    scored = (p for p, _ in with_axis(checkpoint.shape, "hidden") if p.layer in (None, 2))
    channels = sum(
        tensors[p.name].sum(tuple(a for a, x in enumerate(p.row.axes) if x != "hidden"))
        if len(p.dims) == 2
        else tensors[p.name]
        for p in scored
    )
    np.testing.assert_allclose(scores.hidden, channels.sqrt().numpy())


def test_ids_that_only_the_class_names_move_too(
    family_parent: Callable[..., Path], tmp_path: Path
) -> None:
    """SmolLM3's padding id is 128004 by default, OLMo 2's end 50279: beyond a small vocabulary."""
    for name in ("smollm3", "olmo2"):
        checkpoint = open_checkpoint(family_parent(name))
        config = {k: v for k, v in checkpoint.config.items() if not k.endswith("token_id")}
        parent = replace(checkpoint, config=config)
        network = inherit(parent, parent.shape.with_vocab(9), np.arange(9), rng=rng()).network()
        assert network(torch.arange(9)[None]).logits.isfinite().all()
        assert network.config.eos_token_id is None
        assert network.config.pad_token_id == (1 if name == "olmo2" else None)


# --- files


def rename(folder: Path, old: str, new: str, target: Path) -> Path:
    target.mkdir()
    tensors = load_file(folder / "model.safetensors")
    tensors[new] = tensors.pop(old)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def test_a_head_of_two_names(family_parent: Callable[..., Path], tmp_path: Path) -> None:
    """Files call GPT-NeoX's head embed_out, the class calls it lm_head; either is read."""
    folder = family_parent("gpt_neox")
    child = load_child(folder)
    save_child(child, tmp_path / "child")
    with safe_open(tmp_path / "child" / "model.safetensors", "pt") as file:
        assert "embed_out.weight" in file.keys()  # noqa: SIM118
    renamed = rename(folder, "embed_out.weight", "lm_head.weight", tmp_path / "renamed")
    assert torch.equal(logits(load_child(renamed).network()), logits(child.network()))
    tied = family_parent("gpt_neox", tied=True)
    as_head = rename(tied, "gpt_neox.embed_in.weight", "embed_out.weight", tmp_path / "tied")
    assert torch.equal(logits(load_child(as_head).network()), logits(load_child(tied).network()))
    gone = rename(folder, "embed_out.weight", "head.weight", tmp_path / "gone")
    with pytest.raises(ParentError, match=r"embed_out.weight \[60, 48\] is missing"):
        open_checkpoint(gone)


def test_masks_of_old_files_are_passed_over(
    family_parent: Callable[..., Path], tmp_path: Path
) -> None:
    folder = rename(
        family_parent("gpt_neox"), "embed_out.weight", "embed_out.weight", tmp_path / "old"
    )
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.1.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    tensors["gpt_neox.layers.1.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert len(load_child(folder).tensors) == len(tensors) - 2


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types = .'full.*list of 4 entries"),
        ("smollm3", {"no_rope_layers": 1}, "no_rope_layers = 1: it should be a list of 4 entries"),
        ("qwen2", {"num_key_value_heads": 6}, r"\[24, 48\]; by config.json .*be \[48, 48\]"),
        ("gpt_neox", {"attention_bias": False}, r"dense.bias \[48\] is not part of gpt_neox with"),
        ("qwen3", {"attention_bias": True}, r"layers.0.self_attn.q_proj.bias \[96\] is missing"),
        ("olmo2", {"num_hidden_layers": 3}, "is not part of olmo2 with 3 layers"),
    ],
)
def test_refusals(
    family_parent: Callable[..., Path],
    tmp_path: Path,
    name: str,
    values: dict[str, Any],
    message: str,
) -> None:
    folder = family_parent(name)
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ParentError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_width_gpt_neox_cannot_have(family_parent: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(family_parent("gpt_neox"))
    with pytest.raises(RecipeError, match="hidden = 24: in gpt_neox it is heads x head_dim = 6 x"):
        inherit(checkpoint, replace(checkpoint.shape, hidden=24), EVERY_TOKEN, rng=rng())


def test_a_config_transformers_does_not_take(family_parent: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(family_parent("qwen2"))
    wrong = config_with({**checkpoint.config, "layer_types": ["no"] * 4}, checkpoint.shape)
    checkpoint = replace(checkpoint, config=wrong)
    with pytest.raises(ParentError, match=r"config.json: transformers does not take it") as caught:
        inherit(checkpoint, checkpoint.shape, EVERY_TOKEN, rng=rng())
    assert "\n" not in str(caught.value)
