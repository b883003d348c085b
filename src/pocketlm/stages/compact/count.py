"""Count tokens: one pass over the texts, encoded in batches, added up by `numpy.bincount`.

Documents are counted, not words: some tokenizers have pieces that span words.
Shapes: P ids of the tokenizer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer

BATCH_CHARACTERS = 1_000_000  # about 100 MB of encodings at a time


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one pass saw."""

    counts_P: npt.NDArray[np.int64]
    """Final pieces by id."""
    num_bytes: int
    """UTF-8 bytes of the texts."""

    @property
    def num_tokens(self) -> int:
        """Length of the texts in tokens."""
        return int(self.counts_P.sum())

    @property
    def tokens_per_byte(self) -> float:
        """Length of a byte in tokens; lower is shorter sequences."""
        return self.num_tokens / self.num_bytes


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counts:
    """Count every token of `texts`; memory is bounded by one batch."""
    counts_P = np.zeros(tokenizer.num_tokens, dtype=np.int64)
    num_bytes = 0
    for batch in _batches(texts):
        num_bytes += sum(len(text.encode("utf-8")) for text in batch)
        ids = np.fromiter(chain.from_iterable(tokenizer.encode_batch(batch)), dtype=np.int64)
        counts_P += np.bincount(ids, minlength=counts_P.size)
    return Counts(counts_P=counts_P, num_bytes=num_bytes)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
