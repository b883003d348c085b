"""A corpus as token shards in a folder of its own, without a recipe: `pocketlm corpus`.

The folder appears whole or not at all. Until then its parts lie beside it, in `.NAME.unfinished`,
and the same call goes on from there; another call on the same folder begins anew.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.artifact import key_of, sync, write_atomically
from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.corpus.shards import TOKENISED, open_tokens, tokenizer_key, write_shards
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import OutputError, RecipeError
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import CorpusTable
from pocketlm.tables import Table, build_table, parse_settings
from pocketlm.units import show_bytes, show_count

_ABOUT = "about.txt"


@dataclass(frozen=True)
class Line:
    """One source of one split."""

    split: str
    source: str
    tokens: int
    num_bytes: int


@dataclass(frozen=True)
class TokenisedFiles:
    """What a folder of shards holds."""

    folder: Path
    vocab_size: int
    held: tuple[Line, ...]
    num_bad_lines: int
    """Lines of the corpus that held no text."""

    def as_dict(self) -> dict[str, Any]:
        """Flat keys; `sources` is split -> source -> tokens and UTF-8 bytes."""
        sources: dict[str, dict[str, dict[str, int]]] = {}
        for line in self.held:
            numbers = {"tokens": line.tokens, "bytes": line.num_bytes}
            sources.setdefault(line.split, {})[line.source] = numbers
        return {
            "folder": str(self.folder),
            "vocab_size": self.vocab_size,
            "tokens": sum(line.tokens for line in self.held),
            "bytes": sum(line.num_bytes for line in self.held),
            "bad_lines": self.num_bad_lines,
            "sources": sources,
        }

    def lines(self) -> list[str]:
        """The same as a person reads it."""
        rows = [f"{'split':<8} {'tokens':>10} {'text':>10} {'bytes/token':>12}  source"]
        for line in self.held:
            ratio = line.num_bytes / max(1, line.tokens)
            text = show_bytes(line.num_bytes)
            rows.append(f"{line.split:<8} {show_count(line.tokens):>10} {text:>10} "
                        f"{ratio:>12.3f}  {line.source}")  # fmt: skip
        if self.num_bad_lines:
            rows.append(f"{self.num_bad_lines} lines held no text and were left out")
        return [*rows, "", f"tokens  {self.folder}"]


def tokenise_files(
    patterns: Sequence[str],
    tokenizer_path: Path,
    out: Path,
    *,
    settings: Sequence[str] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> TokenisedFiles:
    """Tokenise the training and choosing text behind the globs into the new folder `out`.

    `settings` are keys of [corpus] such as corpus.text_field=body. Raises `RecipeError`,
    `CorpusError`, `ParentError`, `OutputError`, and `StageError` if a process dies.
    """
    if workers is not None and workers < 1:
        raise RecipeError(f"--workers {workers}: at least 1")
    table = _corpus_table(patterns, settings)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"--out {out}: something is there; give a new folder")
    tokenizer = load_tokenizer(tokenizer_path)
    corpus = load_corpus(table.files, text_field=table.text_field, max_bytes=table.max_bytes)
    with _unfinished(out, _key(corpus, tokenizer)) as work:
        write_shards(corpus, tokenizer, work, workers=workers, progress=progress)
    return TokenisedFiles(out, tokenizer.num_tokens, tuple(_held(out)), corpus.survey.num_bad_lines)


class _Tables(Table):
    """The one table of a recipe that matters here."""

    corpus: CorpusTable


def _corpus_table(patterns: Sequence[str], settings: Sequence[str]) -> CorpusTable:
    tables: dict[str, dict[str, Any]] = {"corpus": {"files": list(patterns)}}
    for key, value in parse_settings(settings).items():
        name, _, field = key.partition(".")
        tables.setdefault(name, {})[field] = value
    table = build_table(_Tables, tables, "--set").corpus
    if table.weights is not None:
        raise RecipeError("--set corpus.weights: training reads by weight; here all text is kept")
    return table


def _key(corpus: Corpus, tokenizer: Tokenizer) -> str:
    stats = [(file, file.path.stat()) for file in corpus.files]
    files = [[f.source, str(f.path.absolute()), s.st_size, s.st_mtime_ns] for f, s in stats]
    tokens = [tokenizer_key(tokenizer), corpus.text_field, corpus.max_bytes]
    return key_of({"files": files, "tokens": tokens})


def _held(folder: Path) -> Iterator[Line]:
    for split in TOKENISED:
        row = open_tokens(folder, split)
        for span in row.spans:
            num_bytes = row.bytes_of(span)
            yield Line(split, span.source, span.stop - span.start, num_bytes)


@contextmanager
def _unfinished(out: Path, key: str) -> Iterator[Path]:
    """The folder that becomes `out`; what is in it stays if the work does not end."""
    target = out.absolute()
    work = target.with_name(f".{target.name}.unfinished")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"--out {out}: another process is writing it") from None
        about = work / _ABOUT
        if not about.is_file() or about.read_text() != key:
            for path in work.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
            write_atomically(about, key)
        yield work
        for path in work.rglob("*"):
            sync(path)
        about.unlink()
        (work / ".lock").unlink()
        os.rename(work, target)
        sync(target.parent)
