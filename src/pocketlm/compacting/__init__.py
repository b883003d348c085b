"""Compact without a recipe: a smaller parent, or a tokenizer alone, into a folder of its own.

The folder holds what transformers reads (tokenizer, config, weights) and why it is as it is
(kept_V.npy, old_to_new.json, provenance, curve, counts, checks, compact.json). It appears whole or
not at all. Shapes: P parent ids, V child ids.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pocketlm.artifact import sync
from pocketlm.compacting.checks import check_model, check_tokenizer
from pocketlm.compacting.request import Request, read_request
from pocketlm.compacting.result import CompactedFiles
from pocketlm.corpus.documents import Corpus
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import OutputError
from pocketlm.model.vocab_axes import find_vocabulary
from pocketlm.model.vocab_rows import VocabularyCut, cut_vocabulary
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import CompactTable
from pocketlm.stages.compact import Compacted, Counted, Keep, Size, compact, count
from pocketlm.stages.compact.count import How
from pocketlm.stages.compact.size import Body, BodyOf
from pocketlm.stages.compact.verify import Check
from pocketlm.steps.materials import write_json
from pocketlm.steps.vocabulary import write_vocabulary

__all__ = [
    "CompactedFiles",
    "Request",
    "compact_files",
    "compact_parent",
    "compact_tokenizer",
    "read_request",
]

KEEP_ALL = CompactTable()
"""The keys of [compact] as they are by default."""


def compact_files(request: Request, out: Path, *, progress: Progress = SILENT) -> CompactedFiles:
    """`compact_parent` or `compact_tokenizer`, whatever was asked for."""
    if request.parent is not None:
        return compact_parent(
            request.parent, request.corpus, out, options=request.options, progress=progress
        )
    assert request.tokenizer is not None
    return compact_tokenizer(
        request.tokenizer, request.corpus, out, options=request.options, progress=progress
    )


def compact_parent(
    parent: Path,
    corpus: Corpus,
    out: Path,
    *,
    options: CompactTable = KEEP_ALL,
    progress: Progress = SILENT,
) -> CompactedFiles:
    """Write into the new folder `out` the model in `parent` with a vocabulary for `corpus`.

    Any architecture of transformers stored as safetensors. Whatever can be refused is refused
    before the corpus is read. Raises `ParentError`, `OutputError`, `RecipeError`, `CorpusError`,
    and `StageError` if the result does not hold.
    """
    with _new_folder(out) as work:
        tokenizer = load_tokenizer(parent)
        vocabulary = find_vocabulary(parent, tokenizer.num_tokens)
        body = Body(
            params=vocabulary.num_params - vocabulary.num_vocab_params,
            hidden=vocabulary.hidden,
            matrices=vocabulary.num_vocab_matrices,
        )
        size = _size(options, lambda vocab_size: body)
        compacted, counted = _compact(tokenizer, corpus, options, size, progress)
        compacted.tokenizer.save(work)
        cut = cut_vocabulary(parent, compacted.kept_V, work, progress=progress)
        checks = (
            check_tokenizer(compacted.tokenizer, corpus, work),
            *check_model(vocabulary, tokenizer, compacted, corpus, work),
        )
        return _described(tokenizer, _with_checks(compacted, checks), counted, cut, work)


def compact_tokenizer(
    tokenizer_path: Path,
    corpus: Corpus,
    out: Path,
    *,
    options: CompactTable = KEEP_ALL,
    progress: Progress = SILENT,
) -> CompactedFiles:
    """Write into the new folder `out` a tokenizer with a vocabulary for `corpus`.

    Raises as `compact_parent` does; `vocab_size = "auto"` and `max_share` need a model.
    """
    with _new_folder(out) as work:
        size = _size(options, None)
        tokenizer = load_tokenizer(tokenizer_path)
        compacted, counted = _compact(tokenizer, corpus, options, size, progress)
        compacted.tokenizer.save(work)
        checks = (check_tokenizer(compacted.tokenizer, corpus, work),)
        return _described(tokenizer, _with_checks(compacted, checks), counted, None, work)


def _compact(
    tokenizer: Tokenizer, corpus: Corpus, options: CompactTable, size: Size, progress: Progress
) -> tuple[Compacted, Counted]:
    counted = count(
        tokenizer, corpus, how=How(sample_bytes=options.sample_bytes), progress=progress
    )
    if options.weights:
        counted = replace(counted, train=counted.train.weighted(options.weights))
    keep = Keep(texts=options.keep, patterns=options.keep_patterns, scripts=options.keep_scripts)
    compacted = compact(
        tokenizer, corpus, vocab_size=size, select=options.select, keep=keep, counted=counted
    )
    return compacted, counted


def _size(options: CompactTable, body_of: BodyOf | None) -> Size:
    number = options.vocab_size
    return Size(
        number=number if isinstance(number, int) else None,
        coverage=options.coverage,
        max_share=options.max_share,
        auto=number == "auto",
        body_of=body_of,
    )


def _with_checks(compacted: Compacted, checks: tuple[Check, ...]) -> Compacted:
    return replace(compacted, checks=(*compacted.checks, *checks))


def _described(
    tokenizer: Tokenizer,
    compacted: Compacted,
    counted: Counted,
    cut: VocabularyCut | None,
    folder: Path,
) -> CompactedFiles:
    """The result, written beside what it is about."""
    made = CompactedFiles(
        compacted=compacted,
        parent_vocab_size=tokenizer.num_tokens,
        lossless=compacted.tokenizer.lossless,
        cut=cut,
    )
    write_vocabulary(compacted, folder)
    counted.train.save(folder)
    write_json(folder / "compact.json", made.as_dict())
    return made


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, beside `out`; it takes the name `out` when it is complete.

    Nothing that is there is ever replaced.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: a file is there; give a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"--out {out}: not empty; give a new folder")
    target = out.absolute()
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir()
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written ({error.strerror})") from None
    try:
        yield work
        for path in work.rglob("*"):
            sync(path)
        os.rename(work, target)
        sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
