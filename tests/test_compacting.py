"""Compacting without a recipe: a folder that loads, says what it lost, and appears whole or not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from pocketlm import compacting
from pocketlm.compacting import CompactedFiles, compact_files, read_request
from pocketlm.compacting import checks as checking
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import OutputError, ParentError, RecipeError, StageError
from pocketlm.model import vocab_check

KEYS = {
    "vocab_size", "parent_vocab_size", "reason", "dead_slots", "tokens_per_byte", "lossless",
    "parent_tokens_per_byte", "inflation_percent", "coverage", "params", "parent_params", "bytes",
    "parent_bytes", "warnings",
}  # fmt: skip


def run(out: Path, text: Path, **how: Any) -> CompactedFiles:
    about = {"parent": None, "tokenizer": None, "vocab_size": None, "settings": []}
    return compact_files(read_request(corpus=[str(text)], **{**about, **how}), out)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_parent: Path, tiny_text: Path) -> Path:
    """The tiny parent with 320 tokens."""
    folder = tmp_path_factory.mktemp("compacted") / "smaller"
    run(folder, tiny_text, parent=tiny_parent, vocab_size="320")
    return folder


def test_smaller_parent_loads_and_is_the_parent(out: Path, tiny_parent: Path) -> None:
    kept_V = np.load(out / "kept_V.npy")
    tokenizer = AutoTokenizer.from_pretrained(out)
    child, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert (len(tokenizer), child.config.vocab_size, kept_V.size) == (320, 320, 320)
    parent = AutoModelForCausalLM.from_pretrained(tiny_parent)
    before = AutoTokenizer.from_pretrained(tiny_parent)
    text = "".join(map(chr, range(33, 91, 2)))  # nothing to merge: all its pieces are bytes
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert kept_V[ids[0]].tolist() == before(text).input_ids
    with torch.no_grad():
        expected = parent(torch.from_numpy(kept_V)[ids]).logits[..., torch.from_numpy(kept_V)]
        torch.testing.assert_close(child(ids).logits, expected, atol=1e-6, rtol=1e-6)
    assert child.generate(ids, max_new_tokens=20, do_sample=True, pad_token_id=0).max() < 320


def test_the_folder_says_what_happened(out: Path, tiny_parent: Path) -> None:
    result = json.loads((out / "compact.json").read_text())
    assert result.keys() >= KEYS
    assert (result["vocab_size"], result["dead_slots"], result["lossless"]) == (320, 0, True)
    assert result["parent_vocab_size"] == load_tokenizer(tiny_parent).num_tokens
    assert result["parent_params"] - result["params"] == 32 * (result["parent_vocab_size"] - 320)
    assert result["bytes"] == (out / "model.safetensors").stat().st_size
    assert result["inflation_percent"] > 0
    kept_V = np.load(out / "kept_V.npy")
    old_to_new = json.loads((out / "old_to_new.json").read_text())
    assert old_to_new == {str(old): new for new, old in enumerate(kept_V.tolist())}
    assert len(json.loads((out / "provenance.json").read_text())) == 320
    checks = {c["name"]: c for c in json.loads((out / "checks.json").read_text())}
    assert all(check["passed"] for check in checks.values())
    assert checks["AutoTokenizer"]["tried"] > 5
    assert checks["model loads"]["tried"] == 1
    assert checks["kept logits"]["tried"] > 20


def test_nothing_of_the_parent_is_left_over(
    tmp_path: Path, tiny_parent: Path, tiny_text: Path
) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    for path in tiny_parent.iterdir():
        (parent / path.name).write_bytes(path.read_bytes())
    stale = ("vocab.json", "merges.txt", "added_tokens.json", "README.md", "modeling_x.py")
    for name in stale:
        (parent / name).write_text("{}")
    run(tmp_path / "out", tiny_text, parent=parent, vocab_size="300")
    assert not {p.name for p in (tmp_path / "out").iterdir()} & set(stale)


def test_tokenizer_alone(tmp_path: Path, tiny_parent: Path, tiny_text: Path) -> None:
    made = run(
        tmp_path / "a" / "out", tiny_text, tokenizer=tiny_parent / "tokenizer.json",
        settings=["compact.coverage=0.9", "compact.select=usage"],
    )  # fmt: skip
    result = made.as_dict()
    assert result["coverage"] >= 0.9
    assert (result["params"], result["bytes"]) == (None, None)
    assert result == json.loads((tmp_path / "a" / "out" / "compact.json").read_text())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "a" / "out")) == result["vocab_size"]
    assert not list((tmp_path / "a" / "out").glob("*.safetensors"))
    assert any(line.startswith("coverage") for line in made.lines())


def test_a_class_that_transformers_insists_on_is_told(
    tmp_path: Path, tiny_text: Path, shared_data: Path
) -> None:
    """Of model_type qwen2 it takes Qwen2Tokenizer, whatever the tokenizer's own files say."""
    parent = tmp_path / "parent"
    source = shared_data / "tokenizers" / "slimpajama-bpe" / "slimpajama-6B-4096-BPE.model"
    tokenizer = load_tokenizer(source)
    config = Qwen2Config(
        vocab_size=tokenizer.num_tokens, hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(parent)
    tokenizer.save(parent)
    made = run(tmp_path / "out", tiny_text, parent=parent, vocab_size="2000")
    assert any("AutoTokenizer: Qwen2Tokenizer" in line for line in made.warnings)
    assert [c.name for c in made.compacted.checks if not c.passed] == ["AutoTokenizer"]


def test_auto_takes_the_body_from_the_parent(
    tmp_path: Path, tiny_parent: Path, tiny_text: Path
) -> None:
    made = run(tmp_path / "out", tiny_text, parent=tiny_parent, vocab_size="auto").as_dict()
    assert 257 <= made["vocab_size"] <= made["parent_vocab_size"]
    assert made["reason"]
    with pytest.raises(RecipeError):
        run(tmp_path / "none", tiny_text, tokenizer=tiny_parent, vocab_size="auto")
    assert not (tmp_path / "none").exists()


def test_a_large_parent_is_read_back(
    tmp_path: Path, tiny_parent: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocab_check, "MAX_BYTES", 1000)
    made = run(tmp_path / "out", tiny_text, parent=tiny_parent, vocab_size="300")
    check = made.compacted.checks[-1]
    assert (check.name, check.passed, check.tried) == ("kept rows", True, 20)
    assert "not run" in check.note


def test_failure_leaves_nothing(
    tmp_path: Path, tiny_parent: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "LOGIT_TOLERANCE", -1.0)
    with pytest.raises(StageError, match="kept logits"):
        run(tmp_path / "out", tiny_text, parent=tiny_parent, vocab_size="300")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["file", "full", "parent"])
def test_out_is_refused_before_any_work(
    what: str, tmp_path: Path, tiny_parent: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    elif what == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out = tiny_parent
    monkeypatch.setattr(compacting, "count", None)
    with pytest.raises(OutputError, match="give a new folder"):
        run(out, tiny_text, parent=tiny_parent, vocab_size="300")


def test_model_is_refused_before_any_work(
    tmp_path: Path, tiny_parent: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "count", None)
    parent = tmp_path / "parent"
    parent.mkdir()
    for path in tiny_parent.iterdir():
        (parent / path.name).write_bytes(path.read_bytes())
    (parent / "model.safetensors").rename(parent / "pytorch_model.bin")
    with pytest.raises(ParentError, match="pickled"):
        run(tmp_path / "out", tiny_text, parent=parent, vocab_size="300")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({}, "--parent DIR, or --tokenizer"),
        ({"parent": Path("x"), "tokenizer": Path("y")}, "one of them"),
        ({"parent": Path("x"), "vocab_size": "many"}, "vocab_size = 'many'"),
        ({"parent": Path("x"), "settings": ["compact.covrage=1"]}, "did you mean 'coverage'"),
        ({"parent": Path("x"), "settings": ["train.rounds=1"]}, "train: no such key"),
        ({"parent": Path("x"), "settings": ["compact.select=use"]}, "did you mean 'usage'"),
        ({"parent": Path("x"), "corpus": []}, "--corpus GLOB is missing"),
    ],
)
def test_requests_are_checked(about: dict[str, Any], message: str, tiny_text: Path) -> None:
    usual = {"parent": None, "tokenizer": None, "vocab_size": None, "settings": []}
    with pytest.raises(RecipeError, match=message):
        read_request(**{**usual, "corpus": [str(tiny_text)], **about})


def test_real_parent(shared_data: Path, tmp_path: Path, tiny_text: Path) -> None:
    parent = shared_data / "models" / "tinystories-656k"
    made = run(tmp_path / "out", tiny_text, parent=parent, vocab_size="1024").as_dict()
    assert (made["dead_slots"], made["params"]) == (0, made["parent_params"] - 128 * 1024)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    child = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    assert child.generate(ids, max_new_tokens=10).max() < 1024
