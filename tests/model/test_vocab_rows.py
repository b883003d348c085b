"""A cut checkpoint: loads strictly, has the parent's logits on kept tokens and its other bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pocketlm.errors import ParentError
from pocketlm.model import vocab_rows, weight_files
from pocketlm.model.token_ids import remap_token_ids
from pocketlm.model.vocab_axes import find_vocabulary
from pocketlm.model.vocab_check import can_run, compare_logits
from pocketlm.model.vocab_rows import cut_vocabulary, first_difference

ROWS, TOKENS = 120, 113  # the last rows are padding
SMALL = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
LLAMA = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": ROWS, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
BART = {
    "vocab_size": ROWS,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "init_std": 0.3,
}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama, tied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama, untied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**LLAMA)),
    "qwen2, padded": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**LLAMA, tie_word_embeddings=True)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(
        t.GPTNeoXConfig(**SMALL, bos_token_id=0, eos_token_id=0)
    ),
    "gptj, head bias": lambda: t.GPTJForCausalLM(
        t.GPTJConfig(
            vocab_size=ROWS, n_embd=32, n_layer=1, n_head=4, n_positions=64, rotary_dim=8,
            bos_token_id=1, eos_token_id=2,
        )
    ),
    "bert, head bias": lambda: t.BertForMaskedLM(t.BertConfig(**SMALL)),
    "bert, no head": lambda: t.BertModel(t.BertConfig(**SMALL)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**LLAMA, num_local_experts=2)),
    "mamba2, infinity in its config": lambda: t.Mamba2ForCausalLM(
        t.Mamba2Config(
            vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, num_heads=4, head_dim=8,
            state_size=4, n_groups=1, bos_token_id=1, eos_token_id=2,
        )
    ),
    "gemma4, a table per layer": lambda: t.Gemma4ForCausalLM(
        t.Gemma4TextConfig(
            **SMALL, num_key_value_heads=2, head_dim=8, vocab_size_per_layer_input=ROWS,
            hidden_size_per_layer_input=8, num_kv_shared_layers=0,
        )
    ),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, decoder_start_token_id=0)),
    "mbart, bias on axis 1": lambda: t.MBartForConditionalGeneration(t.MBartConfig(**BART)),
    "xlm": lambda: t.XLMWithLMHeadModel(
        t.XLMConfig(vocab_size=ROWS, emb_dim=32, n_layers=1, n_heads=4)
    ),
}  # fmt: skip
KEPT = np.sort(np.r_[:10, np.random.default_rng(0).choice(np.arange(10, TOKENS), 40, False)])
WINDOWS = np.random.default_rng(1).integers(10, KEPT.size, (3, 12)).tolist()


def made(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **how: Any) -> Path:
    """A random model of a kind, in `folder`; vectors are no zeros or ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ARCHITECTURES[kind]()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype == torch.float32 and min(tensor.shape, default=0) == tensor.numel():
                torch.nn.init.normal_(tensor, 1, 0.3)
        bias = model.state_dict().get("final_logits_bias")
        if bias is not None:
            torch.nn.init.normal_(bias)
    model.to(dtype).save_pretrained(folder, **how)
    return folder


def cut(parent: Path, out: Path, kept_V: np.ndarray = KEPT) -> Path:
    out.mkdir()
    cut_vocabulary(parent, kept_V, out)
    return out


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_cut_model_is_the_parent_on_kept_tokens(kind: str, tmp_path: Path) -> None:
    parent = made(kind, tmp_path / "parent")
    child = cut(parent, tmp_path / "child")
    vocabulary = find_vocabulary(parent, TOKENS)
    assert can_run(vocabulary)
    found = compare_logits(vocabulary, child, KEPT, WINDOWS)
    assert found.wrong_keys == ()
    assert found.largest_logit > 0.1
    assert found.largest_difference <= 1e-6 * max(1, found.largest_logit)
    before, after = (load_file(folder / "model.safetensors") for folder in (parent, child))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        axis = vocabulary.axes.get(name)
        expected = tensor if axis is None else tensor.index_select(axis, torch.from_numpy(KEPT))
        assert torch.equal(after[name], expected), name
    assert first_difference(parent, KEPT, child) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_any_dtype_is_copied_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    parent = made("llama, untied", tmp_path / "parent", torch.bfloat16)
    rewrite(parent, lambda tensors: tensors.update({n: x.to(dtype) for n, x in tensors.items()}))
    child = cut(parent, tmp_path / "child")
    before, after = (load_file(folder / "model.safetensors") for folder in (parent, child))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = before[name].view(torch.uint8).numpy()[KEPT]
        assert after[name].dtype == dtype
        assert np.array_equal(after[name].view(torch.uint8).numpy(), rows)


def test_shards_keep_their_names(tmp_path: Path) -> None:
    parent = made("llama, untied", tmp_path / "parent", max_shard_size="30KB")
    child = cut(parent, tmp_path / "child")
    index = "model.safetensors.index.json"
    before, after = (json.loads((folder / index).read_text()) for folder in (parent, child))
    assert before["weight_map"] == after["weight_map"]
    assert len(set(after["weight_map"].values())) > 2
    assert after["metadata"]["total_size"] == 4 * cut_params(child)
    assert after["metadata"]["total_parameters"] == cut_params(child)
    assert compare_logits(find_vocabulary(parent, TOKENS), child, KEPT, WINDOWS).wrong_keys == ()


def cut_params(folder: Path) -> int:
    return sum(p.numel() for p in t.AutoModelForCausalLM.from_pretrained(folder).parameters())


def test_numbers_of_the_cut(tmp_path: Path) -> None:
    parent = made("llama, tied", tmp_path / "parent")
    (tmp_path / "child").mkdir()
    removed = cut_vocabulary(parent, KEPT, tmp_path / "child")
    assert removed.num_params_before == cut_params(parent)
    assert removed.num_params_after == cut_params(tmp_path / "child")
    assert removed.num_params_before - removed.num_params_after == 32 * (ROWS - KEPT.size)
    assert removed.cut_tensors == ("model.embed_tokens.weight",)
    assert removed.num_bytes_after == (tmp_path / "child" / "model.safetensors").stat().st_size
    vocabulary = find_vocabulary(parent, TOKENS)
    assert (vocabulary.num_vocab_params, vocabulary.num_vocab_matrices) == (32 * ROWS, 1)
    assert vocabulary.hidden == 32


def test_both_copies_of_a_tied_table_are_cut(tmp_path: Path) -> None:
    parent = made("llama, tied", tmp_path / "parent")
    embedding = "model.embed_tokens.weight"
    rewrite(parent, lambda x: x.update({"lm_head.weight": x[embedding].clone()}))
    after = load_file(cut(parent, tmp_path / "child") / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], after[embedding])
    assert after[embedding].shape == (KEPT.size, 32)


def test_everything_kept_changes_no_tensor(tmp_path: Path) -> None:
    parent = made("gpt_neox", tmp_path / "parent")
    child = cut(parent, tmp_path / "child", np.arange(ROWS))
    with safe_open(child / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    before, after = (load_file(folder / "model.safetensors") for folder in (parent, child))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_ids_of_both_configs_follow(tmp_path: Path) -> None:
    parent = made("t5", tmp_path / "parent")
    edit_config(parent, eos_token_id=[int(KEPT[12]), ROWS - 1], pad_token_id=0)
    generation = {"eos_token_id": int(KEPT[12]), "bad_words_ids": [[int(KEPT[20])], [ROWS - 1]]}
    (parent / "generation_config.json").write_text(json.dumps(generation))
    child = cut(parent, tmp_path / "child")
    config = json.loads((child / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (KEPT.size, [12])
    assert (config["pad_token_id"], config["decoder_start_token_id"]) == (0, 0)
    written = json.loads((child / "generation_config.json").read_text())
    assert written == {"eos_token_id": 12, "bad_words_ids": [[20]]}


def test_ids_that_only_the_class_has_are_written_out(tmp_path: Path) -> None:
    parent = made("llama, untied", tmp_path / "parent")
    config = json.loads((parent / "config.json").read_text())
    del config["eos_token_id"]  # 2 by default
    (parent / "config.json").write_text(json.dumps(config))
    child = cut(parent, tmp_path / "child", np.array([0, 2, 30]))
    read = t.AutoConfig.from_pretrained(child)
    assert (read.eos_token_id, read.bos_token_id) == (1, None)


def test_generation_stays_inside_the_vocabulary(tmp_path: Path) -> None:
    """The parent's padding rows win every step; the child has none of them."""
    parent = made("llama, untied", tmp_path / "parent")
    rewrite(parent, lambda x: x["lm_head.weight"][:TOKENS].mul_(0.0).sub_(1e-3))
    how = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.tensor([WINDOWS[0]])
    model = t.AutoModelForCausalLM.from_pretrained(parent)
    assert model.generate(ids, **how)[:, ids.shape[1] :].max() >= TOKENS
    child = t.AutoModelForCausalLM.from_pretrained(cut(parent, tmp_path / "child"))
    assert child.generate(ids, **how).max() < KEPT.size


def test_names_without_the_base_model_prefix(tmp_path: Path) -> None:
    parent = made("bert, head bias", tmp_path / "parent")

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("bert.")]:
            tensors[name.removeprefix("bert.")] = tensors.pop(name)

    rewrite(parent, strip)
    found = find_vocabulary(parent, TOKENS)
    assert found.axes == {"embeddings.word_embeddings.weight": 0, "cls.predictions.bias": 0}


def test_a_dropped_id_that_the_architecture_needs(tmp_path: Path) -> None:
    text = t.LlamaConfig(**LLAMA)
    eye = t.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    config = t.LlavaConfig(vision_config=eye, text_config=text, image_token_index=7)
    t.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "parent")
    with pytest.raises(ParentError, match=r"'image_token_index' expected int.*keep them"):
        cut(tmp_path / "parent", tmp_path / "without", np.array([0, 1, 2, 8]))
    child = cut(tmp_path / "parent", tmp_path / "child", np.array([1, 2, 7]))
    assert t.AutoConfig.from_pretrained(child).image_token_index == 2
    model, report = t.LlavaForConditionalGeneration.from_pretrained(child, output_loading_info=True)
    assert not any(report.values())
    assert model.get_input_embeddings().weight.shape == (3, 32)


def test_composition(tmp_path: Path) -> None:
    parent = made("gptj, head bias", tmp_path / "parent")
    inner = np.arange(0, KEPT.size, 3)
    twice = cut(cut(parent, tmp_path / "first"), tmp_path / "second", inner)
    once = cut(parent, tmp_path / "once", KEPT[inner])
    for name in ("config.json", "model.safetensors"):
        assert (twice / name).read_bytes() == (once / name).read_bytes()


def test_no_tensor_is_ever_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the window, the bytes are the same, and none larger is mapped or read."""
    parent = made("mbart, bias on axis 1", tmp_path / "parent")
    whole = cut(parent, tmp_path / "whole")
    mapped: list[int] = []
    memmap = np.memmap

    def recorded(*about: Any) -> np.ndarray:
        window = memmap(*about)
        mapped.append(window.nbytes)
        return window

    for module in (vocab_rows, weight_files):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(np, "memmap", recorded)
    pieces = cut(parent, tmp_path / "pieces")
    assert max(mapped) <= 1000
    assert len(mapped) > 10
    name = "model.safetensors"
    assert (pieces / name).read_bytes() == (whole / name).read_bytes()


def test_own_changes_are_found(tmp_path: Path) -> None:
    parent = made("llama, tied", tmp_path / "parent")
    child = cut(parent, tmp_path / "child")
    rewrite(child, lambda x: x["model.norm.weight"].add_(1e-3))
    assert first_difference(parent, KEPT, child) == "model.norm.weight"
    found = compare_logits(find_vocabulary(parent, TOKENS), child, KEPT, WINDOWS)
    assert found.largest_difference > 1e-6


def per_layer(folder: Path) -> None:
    config = t.Gemma3nTextConfig(
        vocab_size=ROWS, vocab_size_per_layer_input=ROWS - 4, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=4,
    )  # fmt: skip
    t.Gemma3nForCausalLM(config).save_pretrained(folder)


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def draft_head(folder: Path) -> None:
    rewrite(folder, lambda x: x.update({"mtp.head.weight": torch.zeros(ROWS, 32)}))


def without_table(folder: Path) -> None:
    rewrite(folder, lambda x: x.pop("lm_head.weight"))


def other_rows(folder: Path) -> None:
    rewrite(folder, lambda x: x.update({"lm_head.weight": torch.zeros(ROWS - 1, 32)}))


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "remote code": (
        lambda f: edit_config(f, model_type="mystery", auto_map={"AutoConfig": "x.Y"}),
        "LlamaForCausalLM of model_type 'mystery'.*code of a checkpoint is never run",
    ),
    "architecture": (lambda f: edit_config(f, architectures=["Mystery"]), "asks for Mystery"),
    "no architecture": (lambda f: edit_config(f, architectures=None), "one name is expected"),
    "quantized": (
        lambda f: edit_config(f, quantization_config={"bits": 4}), "weights are quantized",
    ),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "an adapter"),
    "bad config": (lambda f: edit_config(f, hidden_act="mystery"), "cannot build LlamaForCausalLM"),
    "per-layer table": (per_layer, "embed_tokens_per_layer.weight.*vocabulary of its own"),
    "draft head": (draft_head, r"mtp.head.weight \[120, 32\].*not part of LlamaForCausalLM"),
    "cut short": (cut_short, "damaged or cut short"),
    "pickled": (pickled, "pickled checkpoints are not loaded"),
    "missing": (without_table, "lm_head.weight is missing"),
    "other rows": (other_rows, r"lm_head.weight is \[119, 32\].*\[120, 32\]"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals(reason: str, tmp_path: Path) -> None:
    break_it, message = REFUSALS[reason]
    parent = made("llama, untied", tmp_path / "parent")
    break_it(parent)
    with pytest.raises(ParentError, match=message) as caught:
        cut_vocabulary(parent, KEPT, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    with pytest.raises(ParentError, match="token 120 of the tokenizer has no row"):
        cut_vocabulary(made("bert, no head", tmp_path), np.array([3, 120]), tmp_path)


def test_auto_map_of_a_known_class_is_left_behind(tmp_path: Path) -> None:
    parent = made("llama, tied", tmp_path / "parent")
    edit_config(parent, auto_map={"AutoModelForCausalLM": "modeling_mystery.Mystery"})
    (parent / "modeling_mystery.py").write_text("raise SystemExit('must never run')")
    child = cut(parent, tmp_path / "child")
    assert "auto_map" not in json.loads((child / "config.json").read_text())
    assert not list(child.glob("*.py"))


def test_real_parent(shared_data: Path, tmp_path: Path) -> None:
    parent = shared_data / "models" / "tinystories-656k"
    kept_V = np.r_[:300, 400:1300]
    child = cut(parent, tmp_path / "child", kept_V)
    found = compare_logits(find_vocabulary(parent, 2048), child, kept_V, [list(range(250, 330))])
    assert found.largest_difference <= 1e-6 * max(1, found.largest_logit)
    config = json.loads((parent / "config.json").read_text())
    expected = remap_token_ids(config, {int(old): new for new, old in enumerate(kept_V)})
    written = json.loads((child / "config.json").read_text())
    assert expected.items() <= written.items()
