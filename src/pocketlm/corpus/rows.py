"""Rows of a table out of .jsonl, .csv, .tsv or .parquet, each also .gz: for benchmarks.

Text of a corpus may lose a bad line (`corpus/files.py`); a benchmark may not, since its score would
be of other questions than its name says. So every bad row is an error, with its line.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pocketlm.errors import CorpusError

KINDS = (".jsonl", ".csv", ".tsv", ".parquet")
ENDINGS = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
"""What a file of rows may end in."""

# RFC 4180 quotes in .csv; text/tab-separated-values has no quotes at all: `"` is a character.
_DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ",", "doublequote": True, "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "strict": True},
}
_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, *, columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Rows of one file in order, by column; values of .csv and .tsv are texts.

    `columns` names the columns of a .csv or .tsv that has no header line. JSON lines end at "\\n"
    only, blank ones are skipped, a byte order mark at the beginning is no text. Raises
    `CorpusError` for a file or row that cannot be read.
    """
    kind = _kind(path)
    if kind not in KINDS:
        raise CorpusError(f"{path}: unknown kind; accepted: {', '.join(KINDS)}, each also .gz")
    try:
        with _open(path) as stream:
            if kind == ".jsonl":
                yield from _json_rows(path, stream)
            elif kind == ".parquet":
                yield from _parquet_rows(path, stream)
            else:
                yield from _csv_rows(path, stream, columns)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 ({error})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from None


def _json_rows(path: Path, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        text = (line.removeprefix(_BOM) if number == 1 else line).decode()
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}: line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{path}: line {number}: a {type(row).__name__}; an object is needed")
        yield row


def _csv_rows(path: Path, stream: IO[bytes], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, **_DIALECTS[_kind(path)])
        try:
            names = list(columns) or next(reader, [])
            if len(set(names)) < len(names):
                raise CorpusError(f"{path}: line 1: two columns of one name in {', '.join(names)}")
            yield from (_named(path, reader.line_num, names, fields) for fields in reader if fields)
        except csv.Error as error:
            raise CorpusError(f"{path}: line {reader.line_num}: {error}") from None


def _named(path: Path, line: int, names: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    if len(fields) != len(names):
        needed = f"{len(names)} are needed: {', '.join(names)}"
        raise CorpusError(f"{path}: line {line}: {len(fields)} fields; {needed}")
    return dict(zip(names, fields, strict=True))


def _parquet_rows(path: Path, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end: a compressed stream would be unpacked again for each jump.
    source = io.BytesIO(stream.read()) if path.suffix == ".gz" else stream
    try:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a readable parquet file ({error})") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    return path.open("rb")


def _kind(path: Path) -> str:
    """The suffix that says how to read it, under .gz."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix
