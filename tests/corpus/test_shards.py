"""Parts: the same bytes however many processes write them, finished ones kept, damage named."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from pocketlm.corpus import shards
from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.corpus.shards import check_tokens, open_tokens, tokenizer_key, write_shards
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import DamagedArtifact


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PART_BYTES", 10_000)
    monkeypatch.setattr(shards, "_JOB_BYTES", 2_000)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two sources; parts of 10 kB do not mix them."""
    for name, start in (("a.jsonl", 0), ("b.jsonl", 10_000)):
        rows = (f"Number {n} says {n * n}, not more." for n in range(start, start + 700))
        (tmp_path / name).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return load_corpus([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


@pytest.fixture
def tokenizer(tiny_parent: Path) -> Tokenizer:
    return load_tokenizer(tiny_parent)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.usefixtures("small_parts")
def test_bytes_do_not_depend_on_the_number_of_processes(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        write_shards(corpus, tokenizer, tmp_path / str(workers), workers=workers)
    one = content(tmp_path / "1")
    assert one == content(tmp_path / "2")
    assert len([name for name in one if name.startswith("train/") and name.endswith(".ds")]) > 3


@pytest.mark.usefixtures("small_parts")
def test_the_row_is_every_document_framed_in_order(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_shards(corpus, tokenizer, tmp_path)
    row = open_tokens(tmp_path, "train")
    documents = list(corpus.documents("train"))
    framed = [tokenizer.frame(ids) for ids in tokenizer.encode_batch([d.text for d in documents])]
    assert row.windows(np.array([0]), len(row))[0].tolist() == [*chain(*framed)]
    assert row.num_bytes == corpus.survey.num_bytes["train"]
    ends = np.cumsum([len(ids) for ids in framed])
    sizes = np.cumsum([len(d.text.encode()) for d in documents])
    assert (row.bytes_before(ends) == sizes).all()
    assert [span.source for span in row.spans] == ["a.jsonl", "b.jsonl"]
    only_a = sum(len(ids) for ids, d in zip(framed, documents, strict=True)
                 if d.source == "a.jsonl")  # fmt: skip
    assert row.spans[0].stop == row.spans[1].start == only_a


@pytest.mark.usefixtures("small_parts")
def test_parts_are_listed_with_their_sums(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_shards(corpus, tokenizer, tmp_path)
    about = json.loads((tmp_path / "parts.json").read_text())
    assert about["vocab_size"] == tokenizer.num_tokens
    assert about["tokenizer"] == tokenizer_key(tokenizer)
    assert sum(part["bytes"] for part in about["parts"].values()) == (
        corpus.survey.num_bytes["train"] + corpus.survey.num_bytes["choose"]
    )
    for name, part in about["parts"].items():
        for suffix, digest in part["sha256"].items():
            data = (tmp_path / f"{name}{suffix}").read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest
        assert len(data.splitlines()) == 3  # the last suffix is .ds.metadata
        assert part["tokens"] * 2 == (tmp_path / f"{name}.ds").stat().st_size


@pytest.mark.usefixtures("small_parts")
def test_finished_parts_are_kept_and_damaged_ones_made_again(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again, resume = tmp_path / "whole", tmp_path / "again", tmp_path / "resume"
    whole.mkdir(), again.mkdir()
    write_shards(corpus, tokenizer, whole)
    calls: list[int] = []
    encode = Tokenizer.encode_batch

    def counting(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        calls.append(len(texts))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", counting)
    stop_at = 14
    with pytest.raises(KeyboardInterrupt):
        write_shards(corpus, tokenizer, again, resume=resume)
    done = sorted(resume.rglob("*.json"))
    assert len(done) > 2
    next(resume.rglob("00001.ds")).write_bytes(b"x")
    calls.clear()
    stop_at = -1
    write_shards(corpus, tokenizer, again, resume=resume)
    documents = json.loads((again / "parts.json").read_text())["parts"]
    kept = {f"train/{path.stem}" for path in done} - {"train/00001"}
    made = sum(part["documents"] for name, part in documents.items() if name not in kept)
    assert sum(calls) == made
    assert content(whole) == content(again)
    assert not list(resume.rglob("*.ds"))


def test_a_kill_leaves_no_process_and_no_half_part(
    corpus: Corpus,
    tiny_parent: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL while two processes write; the same call afterwards gives the same bytes."""
    program = f"""
import sys, pathlib
from pocketlm.corpus import shards, documents, tokenizer_files
shards.PART_BYTES, shards._JOB_BYTES = 10_000, 2_000
if __name__ == "__main__":
    corpus = documents.load_corpus({[str(f.path) for f in corpus.files]!r})
    tokenizer = tokenizer_files.load_tokenizer({str(tiny_parent)!r})
    slow = shards.encode_jobs
    def paced(*args, **kwargs):
        import time
        for number, piece in enumerate(slow(*args, **kwargs)):
            if number == 13 and sys.argv[1] == "slow":
                print("now", flush=True)
                time.sleep(60)
            yield piece
    shards.encode_jobs = paced
    folder = pathlib.Path({str(tmp_path)!r}) / "out"
    folder.mkdir(exist_ok=True)
    shards.write_shards(corpus, tokenizer, folder, workers=2,
                        resume=pathlib.Path({str(tmp_path)!r}) / "resume")
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    running = subprocess.Popen([sys.executable, script, "slow"], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "now\n"
    children = _children_of(running.pid)
    assert len(children) >= 2
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_is_alive, children))
    assert list((tmp_path / "resume").rglob("00001.json"))
    subprocess.run([sys.executable, script, "on"], check=True)
    folder = tmp_path / "fresh"
    folder.mkdir()
    monkeypatch.setattr(shards, "PART_BYTES", 10_000)
    write_shards(corpus, tokenizer, folder, workers=1)
    assert content(tmp_path / "out") == content(folder)


def test_a_part_of_another_length_is_named(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_shards(corpus, tokenizer, tmp_path)
    with (tmp_path / "train" / "00000.ds").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(DamagedArtifact, match=r"00000\.ds"):
        open_tokens(tmp_path, "train")
    (tmp_path / "parts.json").write_text("{")
    with pytest.raises(DamagedArtifact, match=r"parts\.json"):
        open_tokens(tmp_path, "train")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".ds", ".ds.index", ".ds.bytes"])
def test_a_flipped_byte_is_named_whatever_size_and_time_say(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, suffix: str
) -> None:
    """In the second part, by whoever of two has it to check."""
    write_shards(corpus, tokenizer, tmp_path)
    check_tokens(tmp_path)
    flip(tmp_path / "train" / f"00001{suffix}")
    open_tokens(tmp_path, "train")  # its length is right
    with pytest.raises(DamagedArtifact, match=f"00001{re.escape(suffix)}: differs from its sum"):
        check_tokens(tmp_path)
    check_tokens(tmp_path, share=(0, 2))
    with pytest.raises(DamagedArtifact, match="00001"):
        check_tokens(tmp_path, share=(1, 2))
    (tmp_path / "train" / f"00001{suffix}").unlink()
    with pytest.raises(DamagedArtifact, match="00001"):
        check_tokens(tmp_path)


def flip(path: Path) -> None:
    """One bit in the middle of a file, as a disk does it: nobody wrote, so no time changes."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_folders_older_than_parts_are_read(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """One file a split, without parts.json: what stores made before hold."""
    write_shards(corpus, tokenizer, tmp_path)
    new = open_tokens(tmp_path, "train", in_memory=True)
    old = tmp_path / "old"
    old.mkdir()
    for suffix in (".ds", ".ds.index", ".ds.bytes"):
        data = (tmp_path / "train" / f"00000{suffix}").read_bytes()
        (old / f"train{suffix}").write_bytes(data)
    check_tokens(old)
    row = open_tokens(old, "train")
    first = new.spans[0].stop
    assert len(row) == first
    assert (row.windows(np.array([0]), first) == new.windows(np.array([0]), first)).all()
    assert row.num_bytes == new.bytes_before(np.array([first]))[0]


def _children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
