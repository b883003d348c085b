"""Files appear together or not at all, whatever interrupts their making."""

import os
import signal
import subprocess
import sys

import pytest

from pocketlm.errors import StageError
from pocketlm.stages.export import export
from pocketlm.stages.export.placing import placed_together

SLOW = """
import sys, time
from pathlib import Path
from pocketlm.stages.export.placing import placed_together
with placed_together(Path(sys.argv[1])) as made:
    (made / "half.gguf").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_files_appear_at_the_end_and_replace_older_ones(tmp_path) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "old").touch()
    with placed_together(tmp_path) as made:
        (made / "huggingface").mkdir()
        (made / "huggingface" / "new").touch()
        (made / "x.gguf").write_text("x")
        assert not (tmp_path / "x.gguf").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["huggingface", "x.gguf"]
    assert [p.name for p in (tmp_path / "huggingface").iterdir()] == ["new"]


@pytest.mark.parametrize("error", [StageError, KeyboardInterrupt])
def test_an_error_leaves_nothing(error, tmp_path) -> None:
    def interrupted() -> None:
        with placed_together(tmp_path) as made:
            (made / "x.gguf").write_text("x")
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_file_under_its_name(tmp_path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "writing\n"
        with placed_together(tmp_path):  # another export leaves the running one alone
            pass
        assert list(tmp_path.rglob("half.gguf"))
        running.send_signal(signal.SIGKILL)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    with placed_together(tmp_path) as made:
        (made / "whole.gguf").touch()
    assert os.listdir(tmp_path) == ["whole.gguf"]


def test_a_later_format_that_fails_takes_the_earlier_ones_along(
    child, tokenizer, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")

    def fails(*_: object) -> int:
        raise StageError("no")

    monkeypatch.setattr("pocketlm.stages.export.gguf_formats.check_in_llama_cpp", fails)
    with pytest.raises(StageError):
        export(
            child,
            tokenizer,
            tmp_path,
            formats=["huggingface", "gguf-f32"],
            check_texts=["You may"],
            lineage={},
        )
    assert not list(tmp_path.iterdir())
