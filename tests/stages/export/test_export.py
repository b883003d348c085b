"""The stage: every format delivered and proven, or nothing left of it."""

from dataclasses import asdict, replace

import pytest
import torch

from pocketlm.errors import RecipeError, StageError, UserError
from pocketlm.stages.export import FORMATS, export
from pocketlm.stages.export.llama_cpp import Answer


def _export(child, tokenizer, folder, *formats, texts=("You may",)):
    return export(
        child, tokenizer, folder, formats=formats, check_texts=texts, lineage={"recipe": "x"}
    )


def test_llama_cpp_writes_what_transformers_writes(files) -> None:
    scores = files.scores
    assert scores["gguf-f16.greedy_as_child"].value == 1
    assert scores["gguf-f16.greedy_gap"].value == 0
    assert scores["gguf-q8_0.greedy_gap"].value <= 0.05


def test_llama_cpp_reads_what_transformers_reads(files, texts) -> None:
    for kind in ("gguf-f16", "gguf-q8_0"):
        assert files.scores[f"{kind}.tokens_equal"].value == 1
        assert f"{len(texts)} of {len(texts)} texts" in files.by_format[kind].verified


def test_sizes_are_those_on_disk(files) -> None:
    for kind in ("gguf-f16", "gguf-q8_0"):
        assert files.by_format[kind].num_bytes == files.path(kind).stat().st_size
        assert files.scores[f"{kind}.bytes"].value == files.path(kind).stat().st_size
    assert files.path("gguf-q8_0").stat().st_size < files.path("gguf-f16").stat().st_size


def test_every_format_says_in_words_what_was_compared(files) -> None:
    for kind, file in files.by_format.items():
        record = asdict(file)
        assert record["format"] == kind
        assert record["verified"]
        assert record["checks"]


def test_the_same_child_gives_the_same_bytes(child, tokenizer, files, tmp_path) -> None:
    lineage = {"recipe": "pico", "parent": "a|b", "train key": "0123"}
    settings = {"formats": ["gguf-q8_0"], "check_texts": [], "lineage": lineage}
    again = export(child, tokenizer, tmp_path, **settings).files[0]
    assert (tmp_path / again.path).read_bytes() == files.path("gguf-q8_0").read_bytes()


def test_a_file_that_differs_is_not_delivered(child, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "pocketlm.stages.export.verify.deinterleave", lambda values, num_heads: values
    )
    with pytest.raises(StageError, match="standard deviations below the best one"):
        _export(child, tokenizer, tmp_path, "gguf-f16", texts=["You may not use this file"] * 4)
    assert not list(tmp_path.iterdir())


def test_other_tokens_in_llama_cpp_are_not_delivered(
    child, tokenizer, tmp_path, monkeypatch
) -> None:
    def answer(job) -> Answer:
        wrong = [[1] for _ in job.texts]
        return Answer(continuations=[], ids=wrong, framed_ids=wrong, likeliest=[])

    monkeypatch.setattr("pocketlm.stages.export.verify.ask_llama_cpp", answer)
    with pytest.raises(StageError, match="'You may' into other tokens"):
        _export(child, tokenizer, tmp_path, "gguf-f16")
    assert not list(tmp_path.iterdir())


def test_unknown_formats_are_named(child, tokenizer, tmp_path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'gguf-f16'"):
        _export(child, tokenizer, tmp_path, "gguf-f61")
    assert list(FORMATS)[:2] == ["huggingface", "gguf-f32"]


def test_a_missing_extra_is_named_with_its_install_line(
    child, tokenizer, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("pocketlm.stages.export.gguf.find_spec", lambda name: None)
    with pytest.raises(UserError, match="gguf and xllamacpp"):  # a file is never delivered unrun
        _export(child, tokenizer, tmp_path, "gguf-f16")
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'pocketlm\[gguf\]'"):
        _export(child, tokenizer, tmp_path, "gguf-f16")


def test_weights_beyond_float16_are_not_delivered(child, tokenizer, tmp_path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {**child.tensors, name: torch.full_like(child.tensors[name], 1e6)}
    with pytest.raises(StageError, match="up_proj"):
        _export(replace(child, tensors=tensors), tokenizer, tmp_path, "gguf-f16")
    assert not list(tmp_path.iterdir())
