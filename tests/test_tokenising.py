"""`pocketlm corpus`: a folder of shards, whole or not at all, and one line for bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketlm.cli import run
from pocketlm.corpus import shards
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.shards import open_tokens
from pocketlm.corpus.tokenizer import Tokenizer

Call = Callable[..., int]


@pytest.fixture
def call(tiny_text: Path, tiny_parent: Path, tmp_path: Path) -> Call:
    """Run the verb on the tiny text; more words come behind."""

    def run_corpus(*more: str, text: Path = tiny_text, tokenizer: Path = tiny_parent) -> int:
        words = ["corpus", str(text), "--tokenizer", str(tokenizer), "--out"]
        return run([*words, str(tmp_path / "tokens"), "-q", *more])

    return run_corpus


def test_it_writes_what_it_says(
    call: Call, tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--json", "--workers", "1") == 0
    table = json.loads(capsys.readouterr().out)
    survey = load_corpus([str(tiny_text)]).survey
    assert table["bytes"] == survey.num_bytes["train"] + survey.num_bytes["choose"]
    row = open_tokens(tmp_path / "tokens", "train")
    assert table["sources"]["train"]["tiny.jsonl"] == {"tokens": len(row), "bytes": row.num_bytes}
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
    made = {path.name for path in (tmp_path / "tokens").iterdir()}
    assert made == {"parts.json", "train", "choose"}


def test_people_read_a_table(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["split", "tokens", "text", "bytes/token", "source"]
    assert [line.split()[0] for line in printed[1:3]] == ["train", "choose"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--workers", "0"], "--workers 0: at least 1"),
        (["--set", "corpus.weights={}"], "training reads by weight"),
        (["--set", "corpus.texts=body"], "did you mean 'text_field'?"),
        (["--set", "train.rounds=1"], "train: no such key"),
        (["--set", "corpus.text_field=body"], "lines are not JSON objects with a text in 'body'"),
    ],
)
def test_wrong_options_are_one_line(
    call: Call, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert call(*more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_wrong_paths_are_one_line(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(text=tmp_path / "none.jsonl") == 2
    assert "matches no file" in capsys.readouterr().err
    assert call(tokenizer=tmp_path) == 2
    assert "no tokenizer there" in capsys.readouterr().err
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "mine").touch()
    assert call() == 2
    assert "something is there" in capsys.readouterr().err


def test_an_interrupted_call_goes_on_and_another_begins_anew(
    call: Call,
    tmp_path: Path,
    tiny_text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shards, "PART_BYTES", 20_000)
    monkeypatch.setattr(shards, "_JOB_BYTES", 5_000)
    texts_encoded = 0
    stop_after = 500
    encode = Tokenizer.encode_batch

    def counting(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        nonlocal texts_encoded
        texts_encoded += len(texts)
        if texts_encoded > stop_after:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", counting)
    assert call() == 75
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "tokens").exists()
    kept = list((tmp_path / ".tokens.unfinished").rglob("*.json"))
    assert kept
    texts_encoded, stop_after = 0, 10**9
    assert call() == 0
    survey = load_corpus([str(tiny_text)]).survey
    whole = survey.num_documents["train"] + survey.num_documents["choose"]
    assert texts_encoded < whole
    texts_encoded, stop_after = 0, 500
    (tmp_path / "tokens").rename(tmp_path / "first")
    assert call() == 75
    other = tmp_path / "other.jsonl"
    other.write_text(tiny_text.read_text() + '{"text": "one more"}\n')
    texts_encoded, stop_after = 0, 10**9
    assert call(text=other) == 0
    assert texts_encoded == whole + 1
    first, second = (
        open_tokens(tmp_path / "first", "train"),
        open_tokens(tmp_path / "tokens", "train"),
    )
    both = min(len(first), len(second))
    start = np.array([0])
    assert (first.windows(start, both) == second.windows(start, both)).all()
