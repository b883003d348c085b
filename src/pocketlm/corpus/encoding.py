"""Encode documents in several processes; what comes back is in the order of the jobs."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np
import tokenizers

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import StageError

_SMALL_BYTES = 16_000_000  # starting processes takes as long as encoding this much


@dataclass(frozen=True)
class Job:
    """Documents to encode together, of one part."""

    part: str
    source: str
    texts: list[str]


@dataclass(frozen=True)
class Encoded:
    """What became of a job. Shapes: T ids, D documents."""

    part: str
    source: str
    ids_T: "np.ndarray[Any, np.dtype[Any]]"
    lengths_D: "np.ndarray[Any, np.dtype[np.int64]]"
    """Ids of each document, its frame included."""
    bytes_D: "np.ndarray[Any, np.dtype[np.uint32]]"
    """UTF-8 bytes of each document."""


def num_workers(workers: int | None, num_bytes: int) -> int:
    """Processes for so much text: as asked, else the cores this process may use, or one for little
    text."""
    if workers is not None:
        return max(1, workers)
    return 1 if num_bytes < _SMALL_BYTES else len(os.sched_getaffinity(0))


def encode_jobs(jobs: Iterator[Job], tokenizer: Tokenizer, *, workers: int) -> Iterator[Encoded]:
    """Encode `jobs` with `workers` processes, one of them: in this process.

    At most two jobs a worker are held. Raises `StageError` if a process dies.
    """
    dtype = np.dtype(np.uint16 if tokenizer.num_tokens <= 2**16 else np.uint32)
    if workers == 1:
        yield from (_encode(tokenizer, dtype, job) for job in jobs)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(tokenizer.backend.to_str(), tokenizer.bos_id, tokenizer.eos_id, dtype),
    )
    running: deque[Future[Encoded]] = deque()
    try:
        for job in jobs:
            running.append(pool.submit(_encode_here, job))
            if len(running) >= 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise StageError("tokens: a process died; the same command continues") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(tokenizer: Tokenizer, dtype: "np.dtype[Any]", job: Job) -> Encoded:
    framed = [tokenizer.frame(ids) for ids in tokenizer.encode_batch(job.texts)]
    lengths_D = np.array([len(ids) for ids in framed], np.int64)
    ids_T = np.fromiter(chain.from_iterable(framed), dtype, count=int(lengths_D.sum()))
    bytes_D = np.array([len(text.encode()) for text in job.texts], np.uint32)
    return Encoded(job.part, job.source, ids_T, lengths_D, bytes_D)


_encoder: tuple[Tokenizer, "np.dtype[Any]"] | None = None  # of a worker process, set once


def _begin(document: str, bos_id: int | None, eos_id: int | None, dtype: "np.dtype[Any]") -> None:
    """Make a worker: one thread, deaf to Ctrl-C, gone when its parent is, killed or not."""
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    backend = tokenizers.Tokenizer.from_str(document)
    backend.encode_special_tokens = True  # not part of the document
    _encoder = Tokenizer(backend=backend, bos_id=bos_id, eos_id=eos_id), dtype


def _encode_here(job: Job) -> Encoded:
    assert _encoder is not None  # `_begin` ran
    return _encode(*_encoder, job)
