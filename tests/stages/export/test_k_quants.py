"""K-quants: llama.cpp's own program, or one line that says it is missing."""

import os
import sys

import pytest

from pocketlm.errors import StageError, UserError
from pocketlm.stages.export import check_formats, export

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
FAIL = "import sys; sys.exit('no such type')"


def _program(folder, monkeypatch, code: str) -> None:
    """A `llama-quantize` that does `code` with its arguments, first on PATH."""
    path = folder / "llama-quantize"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def _export(child, tokenizer, folder):
    return export(
        child,
        tokenizer,
        folder,
        formats=["gguf-q4_k_m"],
        check_texts=["You may not use"],
        lineage={"recipe": "x"},
    ).files[0]


def test_it_is_refused_before_any_work_where_the_program_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"gguf-q4_k_m needs llama.cpp's llama-quantize on PATH"):
        check_formats(["gguf-q4_k_m"], "llama")


def test_what_the_program_writes_is_verified_and_delivered_alone(
    child, tokenizer, tmp_path, monkeypatch
) -> None:
    (tmp_path / "bin").mkdir()
    _program(tmp_path / "bin", monkeypatch, COPY)
    file = _export(child, tokenizer, tmp_path / "out")
    assert file.path == "x-q4_k_m.gguf"
    assert sorted(os.listdir(tmp_path / "out")) == ["card.md", "x-q4_k_m.gguf"]
    assert "every tensor read back, near the child's" in file.verified


def test_its_failure_is_one_line(child, tokenizer, tmp_path, monkeypatch) -> None:
    (tmp_path / "bin").mkdir()
    _program(tmp_path / "bin", monkeypatch, FAIL)
    with pytest.raises(StageError, match=r"does not write x-q4_k_m\.gguf: no such"):
        _export(child, tokenizer, tmp_path / "out")
    assert not os.listdir(tmp_path / "out")
