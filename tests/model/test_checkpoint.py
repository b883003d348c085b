"""Checkpoints: what is opened, what is refused, and that nothing changes on the way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pocketlm.errors import ParentError
from pocketlm.model.checkpoint import load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.family import load_family
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config, constant

SHAPE = Shape(
    family="llama",
    vocab_size=40,
    layers=2,
    hidden=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    ffn=24,
    tied=True,
)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def child() -> Child:
    config = base_config(SHAPE, max_positions=32, bos_id=0, eos_id=1)
    return constant(config, SHAPE, torch.Generator().manual_seed(0))


@pytest.fixture
def folder(child: Child, tmp_path: Path) -> Path:
    save_child(child, tmp_path / "child")
    return tmp_path / "child"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def shard(folder: Path) -> None:
    """The same checkpoint in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in files.items():
        save_file({n: tensors[n] for n in members}, folder / file, metadata={"format": "pt"})
    index = {name: file for file, members in files.items() for name in members}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def same(left: Child, right: Child) -> bool:
    return list(left.tensors) == list(right.tensors) and all(
        torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items()
    )


def test_saved_and_loaded_is_the_same(child: Child, folder: Path, tmp_path: Path) -> None:
    loaded = load_child(folder)
    assert same(loaded, child)
    assert loaded.shape == SHAPE
    assert open_checkpoint(folder).names == tuple(child.tensors)
    save_child(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_transformers_loads_it_strictly(folder: Path) -> None:
    network, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert network.dtype == torch.float32


def test_sharded_equals_single(child: Child, folder: Path) -> None:
    shard(folder)
    assert same(load_child(folder), child)
    names = [path.name for path in open_checkpoint(folder).weight_files]
    assert names == ["config.json", "a.safetensors", "b.safetensors"]


def test_a_tied_table_under_either_name(child: Child, folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    assert same(load_child(folder), child)
    rewrite(folder, lambda tensors: tensors.update({EMBEDDING: tensors[HEAD].clone()}))
    assert same(load_child(folder), child)
    rewrite(folder, lambda tensors: tensors.update({HEAD: tensors[HEAD] + 1}))
    with pytest.raises(ParentError, match="set tie_word_embeddings to false"):
        open_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_stored(child: Child, folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    assert open_checkpoint(folder).read(EMBEDDING).dtype == dtype
    loaded = load_child(folder).tensors[EMBEDDING]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, child.tensors[EMBEDDING].to(dtype).float())


def test_a_value_a_family_is_not_described_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = load_family("llama").model_copy(update={"only": {"hidden_act": "silu"}})
    monkeypatch.setattr("pocketlm.model.checkpoint.load_family", lambda name: narrow)
    open_checkpoint(folder)
    set_config(folder, hidden_act="gelu")
    with pytest.raises(ParentError, match="hidden_act = 'gelu': llama is supported with 'silu'"):
        open_checkpoint(folder)


def test_old_rotary_buffers_are_passed_over(child: Child, folder: Path) -> None:
    buffer = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({buffer: torch.ones(2)}))
    assert same(load_child(folder), child)


CONFIG_REFUSALS = [
    ({"auto_map": {"AutoModelForCausalLM": "x.Y"}}, "custom code .auto_map., which is never run"),
    ({"model_type": "mamba"}, "'mamba': no such family; it has .*llama"),
    ({"attention_bias": True}, r"layers.0.self_attn.q_proj.bias \[16\] is missing"),
    ({"quantization_config": {"bits": 4}}, "the weights are quantized"),
    ({"num_key_value_heads": 3}, "heads = 4 is not a multiple of kv_heads = 3"),
    ({"hidden_size": "wide"}, "a size is not a positive whole number"),
    ({"num_attention_heads": 0}, "heads = 0: it must be at least 1"),
    ({"intermediate_size": 32}, r"gate_proj.weight is \[24, 16\]; .* it should be \[32, 16\]"),
    ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight \[16\] is missing"),
    ({"num_hidden_layers": 1}, r"model.layers.1.* is not part of llama with 1 layers"),
    ({"tie_word_embeddings": False}, r"lm_head.weight \[40, 16\] is missing"),
]


@pytest.mark.parametrize(("values", "message"), CONFIG_REFUSALS)
def test_configs_that_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    set_config(folder, **values)
    with pytest.raises(ParentError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


def extra_bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(16)


def integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[EMBEDDING] = tensors[EMBEDDING].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (extra_bias, r"q_proj.bias \[16\] is not part of llama with 2 layers"),
        (integers, "embed_tokens.weight is I8"),
        (lambda tensors: tensors.pop(EMBEDDING), r"embed_tokens.weight \[40, 16\] is missing"),
    ],
)
def test_tensors_that_are_refused(folder: Path, change: Any, message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ParentError, match=message):
        open_checkpoint(folder)


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 200)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "b.safetensors").unlink()


def climb(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    text = json.dumps({"weight_map": {EMBEDDING: "../secret.safetensors"}})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "damaged or cut short"),
        (garble, "damaged or cut short"),
        (pickle_only, "pickled checkpoints are not loaded; convert to safetensors"),
        (lose_a_shard, "b.safetensors: no such file, though .*index.json names it"),
        (climb, "no weight_map of file names in this folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors and no"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a readable JSON file"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has no"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_folders_that_are_refused(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(ParentError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_the_conversion_that_is_named_works(child: Child, folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ParentError, match="pickled checkpoints are not loaded") as caught:
        open_checkpoint(folder)
    line = str(caught.value).split('python -c "')[1].split('"')[0]
    exec(line, {})
    assert same(load_child(f"{folder}-safetensors"), child)


def test_a_family_without_a_table_says_how_to_add_one(folder: Path) -> None:
    set_config(folder, model_type="mamba")
    with pytest.raises(ParentError, match=r"it has gpt_neox.*a file .*families/mamba\.toml"):
        open_checkpoint(folder)


GOLDEN = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big red ball. She wanted to play with it, but it was too high. Her mom "
    'said, "Lily, let me help you." Lily was happy and they played together all day.'
)


def test_golden_numbers_of_a_real_model(shared_data: Path) -> None:
    """Computed by an independent float64 forward pass (data/README.md); stores only lm_head."""
    from tokenizers import Tokenizer

    folder = shared_data / "models" / "tinystories-656k"
    network = load_child(folder).network()
    by_default = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(GOLDEN).ids
    without_blank = [1, *by_default[2:]]  # drops the leading blank
    assert (len(by_default), len(without_blank)) == (34, 33)
    for ids, nats in ((without_blank, 2.3591), (by_default, 3.0067)):
        batch = torch.tensor([ids])
        assert network(batch, labels=batch).loss.item() == pytest.approx(nats, abs=6e-5)
