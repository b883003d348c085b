"""Count a corpus: shards of files one after the other, chunks of their text in processes."""

import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.documents import Corpus, Document, Split, split_of
from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.errors import StageError
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.compact.count import NUM_GROUPS, Counts, How
from pocketlm.stages.compact.encoders import ENCODERS, prove

if TYPE_CHECKING:
    from pocketlm.corpus.files import TextFile

IntArray = npt.NDArray[np.int64]
Label = tuple[int, int]
"""Source and group of documents."""
Chunk = dict[Label, list[str]]
Tally = dict[Label, tuple[IntArray, int, int]]
"""Counts_P, bytes and documents of each label."""

CHUNK_CHARACTERS = 16_000_000  # about 300 MB while its segments are counted
SHARD_BYTES = 64_000_000
_SAMPLE_DOCUMENTS = 400
_SAMPLE_CHARACTERS = 400_000


def count_corpus(
    tokenizer: Tokenizer,
    corpus: Corpus,
    split: Split = "train",
    *,
    how: How | None = None,
    progress: Progress = SILENT,
) -> Counts:
    """Count one split of `corpus`; raises `CorpusError`, and `StageError` if a process dies."""
    how = how or How()
    whole = corpus.survey.num_bytes[split]
    sources = tuple(dict.fromkeys(file.source for file in corpus.files))
    encoder = how.encoder
    if encoder == "auto":
        encoder = prove(tokenizer, _samples(corpus, split), among=tuple(ENCODERS))
    wanted = min(1.0, how.sample_bytes / whole) if how.sample_bytes else 1.0
    plan = _Plan(corpus, split, sources, wanted)
    total: Tally = {}
    with (
        progress.task("count", wanted * whole, "B") as advance,
        _counter(tokenizer, encoder, how.num_workers(whole)) as count,
    ):
        for number, files in enumerate(_shards(corpus)):
            kept = None if how.resume is None else how.resume / f"{split}-{number}.npz"
            tally = _load(kept) if kept else None
            if tally is None:
                tally = count(plan.chunks(files), advance)
                if kept:
                    _save(kept, tally)
            _add(total, tally)
    return _summed(total, sources, tokenizer.num_tokens, sampled=wanted < 1, encoder=encoder,
                   whole=whole)  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """Which documents are counted, and under which label."""

    corpus: Corpus
    split: Split
    sources: tuple[str, ...]
    share: float

    def chunks(self, files: "Sequence[TextFile]") -> Iterator[Chunk]:
        """The texts of `files` in chunks of bounded size."""
        number = {source: i for i, source in enumerate(self.sources)}
        limit = int(self.share * min(2**64, self.corpus.survey.train_limit
                                     if self.split == "train" else 2**64))  # fmt: skip
        chunk: Chunk = {}
        size = 0
        for document in self.corpus.documents(self.split, files):
            group = 0
            if self.share < 1:
                rank = split_of(document.text)[1]
                if rank >= limit:
                    continue
                group = rank % NUM_GROUPS
            chunk.setdefault((number[document.source], group), []).append(document.text)
            size += len(document.text)
            if size >= CHUNK_CHARACTERS:
                yield chunk
                chunk, size = {}, 0
        if chunk:
            yield chunk


def _samples(corpus: Corpus, split: Split) -> list[str]:
    """Documents from all over the corpus: a stride through each source's own beginning."""
    found: list[str] = []
    by_source: dict[str, list[Document]] = {}
    for document in islice(corpus.documents(split), 20_000):
        by_source.setdefault(document.source, []).append(document)
    for documents in by_source.values():
        stride = max(1, len(documents) * len(by_source) // _SAMPLE_DOCUMENTS)
        room = _SAMPLE_CHARACTERS // len(by_source)
        for document in documents[::stride]:
            found.append(document.text)
            room -= len(document.text)
            if room <= 0:
                break
    return found


def _shards(corpus: Corpus) -> Iterator[list["TextFile"]]:
    shard: list[TextFile] = []
    size = 0
    for file in corpus.files:
        shard.append(file)
        size += file.path.stat().st_size
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


CountShard = Callable[[Iterator[Chunk], Callable[[float], None]], Tally]


@contextmanager
def _counter(tokenizer: Tokenizer, encoder: str, workers: int) -> Iterator[CountShard]:
    """Counts the chunks of a shard, here or in processes that live as long as the context."""
    if workers == 1:
        counter = ENCODERS[encoder].function(tokenizer)
        assert counter is not None  # it was proven, or named and then fails here
        yield lambda chunks, advance: _count_here(counter, chunks, advance)
        return
    state = (tokenizer.backend.to_str(), tokenizer.roles, tokenizer.sentencepiece, encoder)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda chunks, advance: _count_there(pool, state, 2 * workers, chunks, advance)


def _count_here(
    counter: Callable[[Sequence[str]], IntArray],
    chunks: Iterator[Chunk],
    advance: Callable[[float], None],
) -> Tally:
    total: Tally = {}
    for chunk in chunks:
        tally = _count_chunk(counter, chunk)
        _add(total, tally)
        advance(sum(num_bytes for _, num_bytes, _ in tally.values()))
    return total


State = tuple[str, dict[str, str], bytes | None, str]


def _count_there(
    pool: ProcessPoolExecutor,
    state: State,
    most: int,
    chunks: Iterator[Chunk],
    advance: Callable[[float], None],
) -> Tally:
    total: Tally = {}
    running: set[Future[Tally]] = set()

    def collect(done: set[Future[Tally]]) -> None:
        for future in done:
            tally = future.result()
            _add(total, tally)
            advance(sum(num_bytes for _, num_bytes, _ in tally.values()))

    try:
        for chunk in chunks:
            if len(running) >= most:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                collect(done)
            running.add(pool.submit(_count_in_process, state, chunk))
        collect(running)
    except BrokenProcessPool:
        raise StageError("counts: a counting process died; the same command continues") from None
    return total


def _count_in_process(state: State, chunk: Chunk) -> Tally:
    return _count_chunk(_counter_of(state[0], state[2], state[3], json.dumps(state[1])), chunk)


@functools.cache
def _counter_of(
    document: str, proto: bytes | None, encoder: str, roles: str
) -> Callable[[Sequence[str]], IntArray]:
    """Once per process: reading a tokenizer costs as much as counting megabytes."""
    from dataclasses import replace

    tokenizer = tokenizer_from_document(json.loads(document), roles=json.loads(roles))
    counter = ENCODERS[encoder].function(replace(tokenizer, sentencepiece=proto))
    assert counter is not None
    return counter


def _count_chunk(counter: Callable[[Sequence[str]], IntArray], chunk: Chunk) -> Tally:
    return {
        label: (counter(texts), sum(len(text.encode()) for text in texts), len(texts))
        for label, texts in chunk.items()
    }


def _add(total: Tally, tally: Tally) -> None:
    for label, (counts_P, num_bytes, num_documents) in tally.items():
        before = total.get(label)
        if before is not None:
            counts_P = counts_P + before[0]
            num_bytes, num_documents = num_bytes + before[1], num_documents + before[2]
        total[label] = (counts_P, num_bytes, num_documents)


def _summed(
    total: Tally, sources: tuple[str, ...], num_tokens: int, *, sampled: bool, encoder: str,
    whole: int,
) -> Counts:  # fmt: skip
    counts_SP = np.zeros((len(sources), num_tokens), dtype=np.int64)
    counts_GP = np.zeros((NUM_GROUPS, num_tokens), dtype=np.int64) if sampled else None
    num_bytes_S = np.zeros(len(sources), dtype=np.int64)
    num_documents = 0
    for (source, group), (counts_P, num_bytes, documents) in total.items():
        counts_SP[source] += counts_P
        num_bytes_S[source] += num_bytes
        num_documents += documents
        if counts_GP is not None:
            counts_GP[group] += counts_P
    return Counts(
        counts_SP=counts_SP,
        num_bytes_S=num_bytes_S,
        sources=sources,
        num_documents=num_documents,
        counts_GP=counts_GP,
        sampled_share=float(num_bytes_S.sum()) / whole if sampled else 1.0,
        encoder=encoder,
    )


def _save(path: Path, tally: Tally) -> None:
    """Written beside and renamed: a shard is there whole or not at all."""
    labels = list(tally)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part.npz")
    np.savez(
        beside,
        allow_pickle=False,
        labels=np.array(labels, dtype=np.int64).reshape(-1, 2),
        counts=np.array([tally[label][0] for label in labels]),
        sizes=np.array([tally[label][1:] for label in labels], dtype=np.int64).reshape(-1, 2),
    )
    os.replace(beside, path)


def _load(path: Path) -> Tally | None:
    """A finished shard; None where there is none or it cannot be read."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        arrays = np.load(io.BytesIO(path.read_bytes()))
        rows = zip(arrays["labels"].tolist(), arrays["counts"], arrays["sizes"].tolist(),
                   strict=True)  # fmt: skip
        return {(s, g): (counts_P, size[0], size[1]) for (s, g), counts_P, size in rows}
    return None
