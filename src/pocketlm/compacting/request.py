"""What to compact, read from a command line: two tables of a recipe, and a parent or tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.errors import RecipeError
from pocketlm.method import pick
from pocketlm.recipe import CompactTable, CorpusTable
from pocketlm.stages.compact import SELECTORS
from pocketlm.tables import Table, build_table, parse_settings


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compact, for which text, and how. Either `parent` or `tokenizer` is set."""

    parent: Path | None
    tokenizer: Path | None
    corpus: Corpus
    options: CompactTable


def read_request(
    *,
    parent: Path | None,
    tokenizer: Path | None,
    corpus: Sequence[str],
    vocab_size: str | None,
    settings: Sequence[str],
) -> Request:
    """A request from the command line: `corpus` globs, `settings` such as compact.coverage=0.95.

    Raises `RecipeError` and `CorpusError`.
    """
    if (parent is None) == (tokenizer is None):
        raise RecipeError("give a recipe, or --parent DIR, or --tokenizer FILE|DIR: one of them")
    tables: dict[str, dict[str, Any]] = {"corpus": {}, "compact": {}}
    if corpus:
        tables["corpus"]["files"] = list(corpus)
    if vocab_size is not None:
        number = int(vocab_size) if vocab_size.isdecimal() else vocab_size
        tables["compact"]["vocab_size"] = number
    for key, value in parse_settings(settings).items():
        name, _, field = key.partition(".")
        tables.setdefault(name, {})[field] = value
    if not tables["corpus"].get("files"):
        raise RecipeError("--corpus GLOB is missing: give the text to choose tokens for")
    read = build_table(_Tables, tables, "--set")
    pick(SELECTORS, read.compact.select, "[compact] select")
    return Request(
        parent=parent,
        tokenizer=tokenizer,
        corpus=load_corpus(
            read.corpus.files, text_field=read.corpus.text_field, max_bytes=read.corpus.max_bytes
        ),
        options=read.compact,
    )


class _Tables(Table):
    """The two tables of a recipe that matter here."""

    corpus: CorpusTable
    compact: CompactTable
