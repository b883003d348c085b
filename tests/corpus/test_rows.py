"""Rows of benchmark files: every kind and packing reads alike, and no bad row passes."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.corpus.rows import read_rows
from pocketlm.errors import CorpusError

ROWS = [
    {"question": 'a "b", c', "answer": "one\u2028two\nthree"},
    {"question": "问题", "answer": " 四 "},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'question,answer\r\n"a ""b"", c","one\u2028two\nthree"\r\n问题, 四 \r\n'


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("kind", "content"), [(".jsonl", LINES), (".csv", TABLE)])
def test_text_kinds_read_alike(
    tmp_path: Path, kind: str, content: str, mark: str, packed: str
) -> None:
    path = write(tmp_path / f"a{kind}{packed}", (mark + content).encode())
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_parquet_reads_alike(tmp_path: Path, packed: str) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "made")
    path = write(tmp_path / f"a.parquet{packed}", (tmp_path / "made").read_bytes())
    assert list(read_rows(path)) == ROWS


def test_a_quote_in_tsv_is_a_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b'x\ty\n"open\tshut"\n')
    assert list(read_rows(path)) == [{"x": '"open', "y": 'shut"'}]


def test_columns_stand_in_for_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"1,2\n\n3,4\n")
    assert list(read_rows(path, columns=("x", "y"))) == [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]


def test_blank_json_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"x": 1}\r\n\n \n{"x": 2}')
    assert list(read_rows(path)) == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": \n', r"a\.jsonl: line 2: not JSON"),
        ("a.jsonl", b'{"x": 1}\n[1]\n', r"a\.jsonl: line 2: a list; an object is needed"),
        ("a.jsonl", b'{"x": "\xff"}\n', "not UTF-8"),
        ("a.csv", b"x,y\n1,2\n1,2,3\n", r"a\.csv: line 3: 3 fields; 2 are needed: x, y"),
        ("a.csv", b'x,y\n1,"2\n', r"a\.csv: line 2: "),
        ("a.csv", b"x,x\n1,2\n", "two columns of one name"),
        ("a.parquet", b"PAR", "not a readable parquet file"),
        ("a.json", b"{}", r"unknown kind; accepted: \.jsonl"),
    ],
)
def test_a_bad_row_is_an_error_with_its_place(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(CorpusError, match=says):
        list(read_rows(path))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.csv: no such file"):
        list(read_rows(tmp_path / "none.csv"))
    damaged = tmp_path / "a.jsonl.gz"
    damaged.write_bytes(gzip.compress(LINES.encode())[:-9])
    with pytest.raises(CorpusError, match="cannot be read"):
        list(read_rows(damaged))
