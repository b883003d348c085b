"""Text out of files: .jsonl, .parquet and plain text, also .gz and .zst.

A bad line is counted, never fatal by itself; a file of which more than 1 % is bad is refused.
"""

import gzip
import io
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

import zstandard

from pocketlm.errors import CorpusError

PLAIN = (".txt", ".md", ".rst", ".py")
ACCEPTED = "accepted: .jsonl, .txt, .md, .rst, .py (each also .gz or .zst) and .parquet"
MAX_BAD_SHARE = 0.01
MAX_DOCUMENT_BYTES = 64_000
STDLIB_DOCUMENT_BYTES = 8_000  # whole files would leave under ten held-out documents

# Tables of code points, tests and machine-made settings are not text worth learning.
_STDLIB_LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file of the corpus and the entry of `corpus.files` it came from."""

    path: Path
    source: str
    max_document_bytes: int = MAX_DOCUMENT_BYTES


def find_files(patterns: Sequence[str]) -> tuple[TextFile, ...]:
    """Files behind the globs, sorted; `stdlib` stands for the running Python's own sources.

    Raises `CorpusError` when a pattern matches nothing or a file of unknown kind.
    """
    found: list[TextFile] = []
    sources = _distinct_names(patterns)
    for pattern in patterns:
        if pattern == "stdlib":
            found += [TextFile(p, "stdlib", STDLIB_DOCUMENT_BYTES) for p in _stdlib_files()]
            continue
        paths = sorted(p for p in map(Path, glob(pattern, recursive=True)) if p.is_file())
        if not paths:
            raise CorpusError(f"[corpus] files: {pattern} matches no file")
        for path in paths:
            if _kind(path) not in (*PLAIN, ".jsonl", ".parquet"):
                raise CorpusError(f"[corpus] files: {path.name}: unknown kind; {ACCEPTED}")
        found += [TextFile(path, sources[pattern]) for path in paths]
    return tuple(found)


def read_texts(file: TextFile, text_field: str) -> Iterator[str | None]:
    """Texts of one file in order; None stands for a line that could not be used.

    Raises `CorpusError` at the end of a file of which more than 1 % is bad, and for a file that
    cannot be read at all.
    """
    total, num_bad, first_bad = 0, 0, 0
    try:
        for text in _rows(file.path, text_field):
            total += 1
            if text is None:
                num_bad += 1
                first_bad = first_bad or total
            yield text
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"{file.path}: cannot be read as UTF-8 text ({error})") from None
    if num_bad > MAX_BAD_SHARE * total:
        raise CorpusError(
            f"{file.path}: {num_bad} of {total} lines are not JSON objects with a text in "
            f"{text_field!r} (first: line {first_bad}); at most 1 % may be bad"
        )


def _rows(path: Path, text_field: str) -> Iterator[str | None]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _read_parquet(path, text_field)
        return
    with _open(path) as stream:
        if kind == ".jsonl":
            # Split on \n only; blank lines hold no text and are no mistake.
            yield from (_text_of(line, text_field) for line in stream if line.strip())
        else:
            yield stream.read().decode("utf-8")


def _text_of(line: bytes, text_field: str) -> str | None:
    """The text of one JSON line; None if there is none or it is no valid Unicode."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _as_text(row.get(text_field)) if isinstance(row, dict) else None


def _as_text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON, no Unicode text
        return None
    return value


def _read_parquet(path: Path, text_field: str) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if text_field not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise CorpusError(f"{path}: no column {text_field!r}; it has {names}")
        for batch in file.iter_batches(columns=[text_field], batch_size=1024):
            yield from map(_as_text, batch.column(0).to_pylist())
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a readable parquet file ({error})") from None


def _open(path: Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """Bytes behind a .zst file; unlike the library's own reader it minds a missing end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else self._file.read(2**16)
            if self._frame.eof:  # another frame may follow
                packed = packed or self._file.read(2**16)
                if not packed:
                    return 0
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            if not packed:
                raise EOFError("compressed file ended before its end marker")
            try:
                self._ready = self._frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise OSError(f"damaged: {error}") from None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _distinct_names(patterns: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the patterns that tell them apart: `en/a.jsonl`, `zh/a.jsonl`."""
    for length in range(1, max(len(Path(pattern).parts) for pattern in patterns) + 1):
        names = {p: "/".join(Path(p).parts[-length:]) for p in patterns}
        if len(set(names.values())) == len(names):
            break
    return names


def _kind(path: Path) -> str:
    """The suffix that says how to read it, under .gz or .zst."""
    return (path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix


@cache
def _stdlib_files() -> tuple[Path, ...]:
    found = []
    for folder, inner, names in os.walk(sysconfig.get_paths()["stdlib"]):
        inner[:] = [name for name in inner if name not in _STDLIB_LEFT_OUT]  # never walked into
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return tuple(sorted(found))
