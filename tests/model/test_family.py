"""Families: exact to the last parameter, transformers' defaults, and TOML files that are wrong."""

import random
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pocketlm.errors import ParentError, PocketLMError, RecipeError
from pocketlm.model import family as families
from pocketlm.model.checkpoint import load_child, open_checkpoint
from pocketlm.model.cost import count_params, params_by_part
from pocketlm.model.family import family_names, load_family, tensors_of
from pocketlm.model.network import model_config
from pocketlm.model.shape import Shape, check_shape, config_with, shape_of
from pocketlm.model.start import base_config

SHIPPED = ("gpt_neox", "llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3")


def random_shape(name: str, seed: int, *, tied: bool, flipped: tuple[str, ...]) -> Shape:
    draw = random.Random(seed)
    family = load_family(name)
    kv_heads, group = draw.randint(1, 3), draw.randint(1, 3)
    heads, head_dim = kv_heads * group, 2 * draw.randint(1, 6)
    return Shape(
        family=name,
        vocab_size=draw.randint(3, 60),
        layers=draw.randint(1, 5),
        hidden=heads * (draw.randint(1, 8) if family.keys.head_dim else head_dim),
        heads=heads,
        kv_heads=kv_heads if family.keys.kv_heads else heads,
        head_dim=head_dim,
        ffn=draw.randint(1, 40),
        tied=tied,
        flipped=flipped,
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_every_tensor_is_the_instantiated_model_s(name: str) -> None:
    switches = sorted(load_family(name).switches)
    cases = product([False, True], product([False, True], repeat=len(switches)), range(3))
    for seed, (tied, on, _) in enumerate(cases):
        flipped = tuple(key for key, is_on in zip(switches, on, strict=True) if is_on)
        shape = random_shape(name, seed, tied=tied, flipped=flipped)
        check_shape(shape)
        config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
        assert shape_of(config) == shape
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(model_config(config))
        dims = {n: tuple(t.shape) for n, t in network.state_dict().items()}
        if tied:
            del dims[load_family(name).head.name]
        assert {placed.name: placed.dims for placed in tensors_of(shape)} == dims
        assert count_params(shape) == sum(p.numel() for p in network.parameters())
        norms = (p.numel() for n, p in network.named_parameters() if "norm" in n)
        assert params_by_part(shape)["norms"] == sum(norms)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_config_leaves_out_is_transformers_default(name: str) -> None:
    family = load_family(name)
    default = CONFIG_MAPPING[name]().to_dict()
    assert {key: default[key] for key in family.defaults} == family.defaults
    said = {"vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 24}
    said |= {"model_type": name, "num_attention_heads": 32}
    built, shape = model_config(said), shape_of(said)
    assert shape.kv_heads == getattr(built, "num_key_value_heads", 32)
    assert shape.head_dim == getattr(built, "head_dim", 2)
    assert shape.tied == built.tie_word_embeddings
    for key, usual in family.switches.items():
        assert getattr(built, key) == usual
        assert shape_of({**said, key: not usual}).flipped == (key,)


def test_settings_of_layers_follow_them() -> None:
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    shape = random_shape("smollm3", 0, tied=True, flipped=())
    config = config_with({"model_type": "smollm3"}, replace(shape, layers=4))
    config |= {"no_rope_layers": [1, 0, 1, 1], "layer_types": types}
    cut = config_with(config, replace(shape, layers=2), (1, 3))
    assert (cut["no_rope_layers"], cut["layer_types"]) == ([0, 1], types[1::2])
    first = config_with(config, replace(shape, layers=2))
    assert (first["no_rope_layers"], first["layer_types"]) == ([1, 0], types[:2])
    deeper = config_with(config, replace(shape, layers=6))
    assert deeper["no_rope_layers"] == [1, 0, 1, 1, 1, 0]
    qwen2 = random_shape("qwen2", 0, tied=True, flipped=())
    config = config_with({"model_type": "qwen2"}, replace(qwen2, layers=4))
    for before, after in ((1, 1), (2, 2), (3, 2), (4, 4), (28, 28)):
        config["max_window_layers"] = before
        assert (
            config_with(config, replace(qwen2, layers=3), (0, 1, 3))["max_window_layers"] == after
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 2}, r"kv_heads = 2: gpt_neox has one for each of its 4 heads"),
        ({"hidden": 40}, r"hidden = 40: in gpt_neox it is heads x head_dim = 4 x 8 = 32"),
        ({"flipped": ("mlp_bias",)}, "flipped = 'mlp_bias': gpt_neox has attention_bias"),
    ],
)
def test_shapes_a_family_cannot_have(changes: dict[str, Any], message: str) -> None:
    shape = Shape(
        family="gpt_neox",
        vocab_size=9,
        layers=1,
        hidden=32,
        heads=4,
        kv_heads=4,
        head_dim=8,
        ffn=8,
        tied=False,
    )
    check_shape(shape, shape)
    with pytest.raises(RecipeError, match=message):
        check_shape(replace(shape, **changes))
    with pytest.raises(RecipeError, match="attention_bias: keep it as it is in the parent"):
        check_shape(shape, replace(shape, flipped=("attention_bias",)))


# --- files of users


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of families that a test may write to."""
    shutil.copytree(families._FOLDER, tmp_path / "families")
    monkeypatch.setattr(families, "_FOLDER", tmp_path / "families")
    return tmp_path / "families"


Edit = Callable[[str], str]


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def without(name: str) -> Edit:
    def edit(text: str) -> str:
        blocks = text.split("[[tensors]]")
        return "[[tensors]]".join(block for block in blocks if f'{name}"' not in block)

    return edit


def added(**row: Any) -> Edit:
    lines = "".join(f"{key} = {value!r}\n" for key, value in row.items())
    return lambda text: f"{text}\n[[tensors]]\n{lines}"


Q_BIAS = "model.layers.{layer}.self_attn.q_proj.bias"
WRONG: dict[str, tuple[Edit, str]] = {
    "axes that do not fit the weights": (
        replaced('["kv_heads", "hidden"]', '["heads", "hidden"]'),
        r"layers.0.self_attn.k_proj.weight is \[24, 48\]; by config.json and qwen2.toml it should "
        r"be \[48, 48\]",
    ),
    "a tensor too few": (
        without(Q_BIAS),
        r"layers.\d.self_attn.q_proj.bias \[48\] is not part of qwen2 with 4 layers",
    ),
    "a tensor too many": (
        added(name="model.layers.{layer}.mlp.up_proj.bias", part="ffn", axes=["ffn"]),
        r"layers.0.mlp.up_proj.bias \[40\] is missing",
    ),
    "a tensor twice": (
        added(name=Q_BIAS, part="attention", axes=["heads"]),
        r"qwen2.toml tensor model.layers.\{layer\}.self_attn.q_proj.bias stands there 2 times",
    ),
    "no embedding": (without("embed_tokens.weight"), "qwen2.toml one tensor of part 'embedding'"),
    "a switch without a default": (
        added(name="x.{layer}", part="ffn", axes=["ffn"], when="x_bias"),
        r"qwen2.toml tensor x.\{layer\}: \[defaults\] lacks its switch 'x_bias'",
    ),
    "an axis outside the layers": (
        added(name="model.extra", part="ffn", axes=["ffn"]),
        r"qwen2.toml tensor model.extra \['ffn'\]: only a layer has such axes",
    ),
    "fused heads beside grouped ones": (
        added(name="x.{layer}", part="ffn", axes=["qkv_heads"]),
        r"tensor x.\{layer\}: qkv_heads needs \[keys\] kv_heads = ''",
    ),
    "an unknown axis": (replaced('["heads"]', '["head"]'), r"qwen2.toml .*axes.* = 'head'"),
    "an unknown key": (replaced("per_layer", "per_layers"), "per_layers: no such key; did you"),
    "no TOML": (lambda text: text + "[", "qwen2.toml: not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line(
    case: str, folder: Path, family_parent: Callable[..., Path]
) -> None:
    edit, message = WRONG[case]
    path = folder / "qwen2.toml"
    path.write_text(edit(path.read_text()))
    with pytest.raises(PocketLMError, match=message) as caught:
        open_checkpoint(family_parent("qwen2"))
    assert "\n" not in str(caught.value)


def test_a_family_of_one_s_own(folder: Path, root: Path, tmp_path: Path) -> None:
    """The example of the documentation, against transformers' own starcoder2."""
    with pytest.raises(ParentError, match="'starcoder2': no such family; it has gpt_neox, llama"):
        load_family("starcoder2")
    page = (root / "docs" / "3-inherit.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(text)["architecture"] == "Starcoder2ForCausalLM"
    (folder / "starcoder2.toml").write_text(text)
    assert "starcoder2" in family_names()
    for flipped in ((), ("use_bias",)):
        shape = replace(random_shape("starcoder2", 3, tied=False, flipped=flipped), heads=6)
        shape = replace(shape, kv_heads=3, hidden=48, head_dim=8)
        config = base_config(shape, max_positions=64, bos_id=0, eos_id=0)
        with torch.random.fork_rng():
            network = AutoModelForCausalLM.from_config(model_config(config)).eval()
        network.save_pretrained(tmp_path / "parent")
        child = load_child(tmp_path / "parent")
        assert child.shape == shape
        assert count_params(shape) == sum(p.numel() for p in network.parameters())
        ids = torch.arange(3)[None]
        assert torch.equal(child.network()(ids).logits, network(ids).logits)
