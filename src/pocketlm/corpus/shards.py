"""Tokenised text on disk, in datatrove's layout, one shard a split.

SPLIT.ds         token ids of all documents in order, uint16 (uint32 above 65,536 tokens)
SPLIT.ds.index   uint64, for each document the number of ids up to its end
SPLIT.ds.bytes   uint32, UTF-8 bytes of each document, so that budgets in bytes stay exact
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.documents import Corpus, Document, Split
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.progress import SILENT, Progress

_DOCUMENTS_AT_ONCE = 256
TOKENISED: tuple[Split, ...] = ("train", "choose")  # held-out text is scored as text


@dataclass(frozen=True)
class Shard:
    """Token ids of one split, mapped from disk."""

    tokens: "np.ndarray[Any, np.dtype[Any]]"
    ends: "np.ndarray[Any, np.dtype[np.uint64]]"
    num_bytes: int
    """UTF-8 bytes of the documents behind the tokens."""


def write_shards(
    corpus: Corpus, tokenizer: Tokenizer, folder: Path, *, progress: Progress = SILENT
) -> None:
    """Tokenise the training and choosing splits of `corpus` into `folder`."""
    dtype = np.uint16 if tokenizer.num_tokens <= 2**16 else np.uint32
    total = sum(corpus.survey.num_bytes[split] for split in TOKENISED)
    with progress.task("tokenise", total, "B") as advance:
        for split in TOKENISED:
            ends, sizes, end = [], [], 0
            with (folder / f"{split}.ds").open("wb") as file:
                for batch in _batches(corpus.documents(split)):
                    for ids in tokenizer.encode_batch([d.text for d in batch]):
                        framed = np.asarray(tokenizer.frame(ids), dtype)
                        framed.tofile(file)
                        end += framed.size
                        ends.append(end)
                    new = [len(d.text.encode()) for d in batch]
                    sizes += new
                    advance(sum(new))
            np.asarray(ends, np.uint64).tofile(folder / f"{split}.ds.index")
            np.asarray(sizes, np.uint32).tofile(folder / f"{split}.ds.bytes")


def tokenise(corpus: Corpus, tokenizer: Tokenizer, *, seq_len: int = 256) -> Blocks:
    """The training text of `corpus` as blocks of `seq_len` tokens, in memory."""
    with TemporaryDirectory() as folder:
        write_shards(corpus, tokenizer, Path(folder))
        shard = open_shard(Path(folder), "train", num_tokens=tokenizer.num_tokens)
        return Blocks(np.array(shard.tokens), seq_len, shard.num_bytes / len(shard.tokens))


def open_shard(folder: Path, split: Split, *, num_tokens: int) -> Shard:
    """Map the shard of one split; `num_tokens` is the vocabulary it was written with."""
    dtype = np.uint16 if num_tokens <= 2**16 else np.uint32
    return Shard(
        tokens=np.memmap(folder / f"{split}.ds", dtype=dtype, mode="r"),
        ends=np.fromfile(folder / f"{split}.ds.index", np.uint64),
        num_bytes=int(np.fromfile(folder / f"{split}.ds.bytes", np.uint32).sum(dtype=np.int64)),
    )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        yield batch
