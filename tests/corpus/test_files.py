"""Texts out of files: every kind and packing, bad lines counted, refused above 1 %."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pocketlm.corpus.files import TextFile, find_files, read_texts
from pocketlm.errors import CorpusError

TEXTS = ["one\u2028line", "zwei ü", "三"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS).encode()


def read(path: Path, field: str = "text") -> list[str | None]:
    return list(read_texts(TextFile(path, "here"), field))


def test_jsonl_plain_gz_and_zst_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(LINES))
    for path in tmp_path.iterdir():
        assert read(path) == TEXTS, path.name


def test_parquet_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "body") == TEXTS
    with pytest.raises(CorpusError, match="no column 'text'; it has body"):
        read(tmp_path / "a.parquet")


def test_a_plain_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a\n\nb\n")
    assert read(tmp_path / "a.md") == ["a\n\nb\n"]


@pytest.mark.parametrize(
    "bad", [b"{", b"[1]", b'{"text": 1}', b'{"other": "x"}', b'{"text": "\\ud800"}']
)
def test_one_bad_line_in_a_hundred_is_counted_two_are_refused(tmp_path: Path, bad: bytes) -> None:
    good = b'{"text": "x"}\n'
    path = tmp_path / "a.jsonl"
    path.write_bytes(good * 99 + bad + b"\n")
    assert read(path).count(None) == 1
    path.write_bytes(good * 97 + bad + b"\n" + good + bad + b"\n")
    with pytest.raises(CorpusError, match=r"2 of 100 lines are not JSON .* line 98.*at most 1 %"):
        read(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(LINES)[:-9])
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (tmp_path / "odd.parquet").write_bytes(b"no parquet")
    for name in ("cut.jsonl.gz", "latin.txt", "odd.parquet"):
        with pytest.raises(CorpusError, match=name):
            read(tmp_path / name)


def test_patterns_that_find_nothing_or_the_unknown(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="matches no file"):
        find_files([str(tmp_path / "*.jsonl")])
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(CorpusError, match=r"accepted: \.jsonl"):
        find_files([str(tmp_path / "a.pdf")])


def test_stdlib_is_there_and_holds_no_tests() -> None:
    files = find_files(["stdlib"])
    names = {file.path.name for file in files}
    assert {"argparse.py", "topics.py"} <= names
    assert not any("test" in file.path.parts for file in files)
