"""The transformers folder, loaded as a user would."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from pocketlm.errors import StageError, UserError
from pocketlm.model.neutral import from_llama
from pocketlm.stages.export import export
from pocketlm.stages.export.huggingface import check_huggingface, write_huggingface


def test_a_user_gets_the_childs_logits_and_tokens(files, child, tokenizer, texts) -> None:
    folder = files.path("huggingface")
    network = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    reader = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = reader(texts[0], return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == [tokenizer.bos_id] * tokenizer.adds_bos + tokenizer.encode(texts[0])
    with torch.inference_mode():
        assert torch.equal(network(ids).logits, child.network()(ids).logits)
    assert network.generation_config.eos_token_id == tokenizer.eos_id


def test_a_tied_head_is_stored_once(files) -> None:
    with safe_open(files.path("huggingface") / "model.safetensors", framework="pt") as tensors:
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118
    config = json.loads((files.path("huggingface") / "config.json").read_text())
    assert config["tie_word_embeddings"] is True


def test_special_ids_are_the_tokenizers(child, tokenizer, tmp_path) -> None:
    stale = replace(child, config={**child.config, "bos_token_id": 77, "eos_token_id": 78})
    write_huggingface(stale, tokenizer, tmp_path)
    for name in ("config.json", "generation_config.json"):
        table = json.loads((tmp_path / name).read_text())
        assert (table["bos_token_id"], table["eos_token_id"]) == (0, 0)


def test_other_weights_or_tokens_are_found(files, child, tokenizer, texts, tmp_path) -> None:
    folder = shutil.copytree(files.path("huggingface"), tmp_path / "copy")
    name = "model.norm.weight"
    nudged = {**child.tensors, name: child.tensors[name] * 1.001}
    with pytest.raises(StageError, match="other logits"):
        check_huggingface(folder, replace(child, tensors=nudged), tokenizer, texts)
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["merges"] = table["model"]["merges"][:-50]
    (folder / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(StageError, match="into other tokens"):
        check_huggingface(folder, child, tokenizer, texts)


def test_a_class_of_ours_travels_as_code(child, tokenizer, texts, tmp_path) -> None:
    pangu_pi = from_llama(child, rng=torch.Generator().manual_seed(0))
    lineage = {"recipe": "pico"}
    export(
        pangu_pi, tokenizer, tmp_path, formats=["huggingface"], check_texts=texts, lineage=lineage
    )
    folder = tmp_path / "huggingface"
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoConfig"] == "pangu_pi.PanguPiConfig"
    assert "class PanguPiConfig" in (folder / "pangu_pi.py").read_text()
    assert '(".", trust_remote_code=True)' in (folder / "README.md").read_text()
    for kind in ("gguf-f16", "gguf-q8_0"):
        with pytest.raises(UserError, match=r"'pangu_pi': llama\.cpp has no such architecture"):
            export(
                pangu_pi, tokenizer, tmp_path, formats=[kind], check_texts=texts, lineage=lineage
            )


def test_keys_are_strict(child, tokenizer, texts, tmp_path) -> None:
    write_huggingface(child, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    untied = json.dumps({**config, "tie_word_embeddings": False})
    (tmp_path / "config.json").write_text(untied)
    with pytest.raises(StageError, match=r"missing_keys.*lm_head"):
        check_huggingface(tmp_path, child, tokenizer, texts)


def test_the_card_tells_lineage_sizes_and_how_to_run(files) -> None:
    card = (files.path("huggingface") / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| parent | a\\|b |" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "llama-cli -m ../pico-f16.gguf" in card
    for kind, file in files.by_format.items():
        assert f"| {kind} | `{file.path}` |" in card
        assert file.verified in card
