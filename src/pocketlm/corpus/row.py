"""One long row of token ids over many parts on disk, and what stands where in it.

Parts are mapped when read and only so many at a time, so a row of 10^12 tokens costs no more memory
than one of 10^6. A part begins with a document and holds documents of one source.
Shapes: T tokens, D documents, P parts, B windows, W tokens of a window.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
AnyArray = np.ndarray[Any, np.dtype[Any]]

_OPEN_PARTS = 128  # each holds a file descriptor or three; systems allow 1,024


@dataclass(frozen=True)
class Part:
    """Some documents in order: ids, where each document ends, UTF-8 bytes of each."""

    ids_T: AnyArray
    ends_D: AnyArray
    """Number of ids up to the end of each document."""
    bytes_D: AnyArray

    def bytes_before(self, position_B: IntArray) -> IntArray:
        """UTF-8 bytes before each position, 0..T; inside a document in proportion to its ids,
        rounded down."""
        document_B = self.document_at(position_B)
        inside_B = document_B < len(self.ends_D)
        document_B[~inside_B] = 0  # at the very end: nothing is split
        starts_B = np.where(document_B > 0, self.ends_D[document_B - 1], 0).astype(np.int64)
        length_B = np.maximum(self.ends_D[document_B].astype(np.int64) - starts_B, 1)
        split_B = (position_B - starts_B) * self.bytes_D[document_B].astype(np.int64) // length_B
        before_B: IntArray = np.where(
            inside_B, self._sums_D1[document_B] + split_B, self._sums_D1[-1]
        )
        return before_B

    def document_at(self, position_B: IntArray) -> IntArray:
        """The document each position is in; the number of documents at the very end."""
        # Of another type, the positions would make NumPy convert all ends first.
        found_B: IntArray = np.searchsorted(
            self.ends_D, position_B.astype(self.ends_D.dtype), side="right"
        )
        return found_B

    @cached_property
    def _sums_D1(self) -> IntArray:
        return np.concatenate([[0], np.cumsum(self.bytes_D, dtype=np.int64)])


@dataclass(frozen=True)
class Span:
    """What a row holds of one source: tokens from `start` to `stop`."""

    source: str
    start: int
    stop: int


class TokenRow:
    """Parts one behind the other. `len(row)` is the number of ids."""

    def __init__(
        self,
        open_part: Callable[[int], Part],
        *,
        tokens_P: Sequence[int],
        bytes_P: Sequence[int],
        sources_P: Sequence[str],
    ) -> None:
        self._open = lru_cache(_OPEN_PARTS)(open_part)
        self._starts = [0, *np.cumsum(tokens_P, dtype=np.int64).tolist()]
        self._bytes = [0, *np.cumsum(bytes_P, dtype=np.int64).tolist()]
        self._sources = tuple(sources_P)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self._bytes[-1])

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The sources in their order, each once; every source's parts stand together."""
        spans: dict[str, Span] = {}
        for number, source in enumerate(self._sources):
            start = spans[source].start if source in spans else self._starts[number]
            spans[source] = Span(source, start, self._starts[number + 1])
        return tuple(spans.values())

    def bytes_of(self, span: Span) -> int:
        """UTF-8 bytes of one span's documents."""
        start, stop = self.bytes_before(np.array([span.start, span.stop])).tolist()
        return int(stop - start)

    def windows(self, start_B: IntArray, width: int) -> IntArray:
        """Ids of `width` tokens from each start, int64, shape (B, W)."""
        ids_BW = np.empty((len(start_B), width), np.int64)
        for row, start in zip(ids_BW, start_B.tolist(), strict=True):
            for at, part, first, count in self._pieces(start, width):
                row[at : at + count] = part.ids_T[first : first + count]
        return ids_BW

    def positions(self, start_B: IntArray, width: int) -> IntArray:
        """Place of each token in its document, or since the window's start, shape (B, W)."""
        begins_BW = np.zeros((len(start_B), width), np.int64)
        for row, start in zip(begins_BW, start_B.tolist(), strict=True):
            for at, part, first, count in self._pieces(start, width):
                row[at] = at  # a part begins with a document
                # Ends inside the piece: behind its first token, not behind its last.
                low, high = part.document_at(np.array([first, first + count - 1])).tolist()
                inside = at + part.ends_D[low:high].astype(np.int64) - first
                row[inside] = inside
        steps_W = np.arange(width)
        place_BW: IntArray = steps_W - np.maximum.accumulate(begins_BW, axis=1)
        return place_BW

    def bytes_before(self, position_B: IntArray) -> IntArray:
        """UTF-8 bytes of the text before each position, 0..T, as int64.

        Exact at the ends of documents; `Part.bytes_before` says how one is split.
        """
        part_B = np.searchsorted(self._starts, position_B, side="right") - 1
        before_B = np.full(len(position_B), self.num_bytes, np.int64)
        for number in np.unique(part_B[position_B < len(self)]).tolist():
            here_B = part_B == number
            local_B = position_B[here_B] - self._starts[number]
            before_B[here_B] = self._bytes[number] + self._open(number).bytes_before(local_B)
        return before_B

    def _pieces(self, start: int, width: int) -> Iterator[tuple[int, Part, int, int]]:
        """The parts that a window meets: where in the window, the part, where in it, how much."""
        number, at = bisect_right(self._starts, start) - 1, 0
        while at < width:
            first = start + at - self._starts[number]
            count = min(width - at, self._starts[number + 1] - start - at)
            if count > 0:
                yield at, self._open(number), first, count
                at += count
            number += 1


def row_of(ids_T: AnyArray, num_bytes: int) -> TokenRow:
    """An array in memory as one document of one source."""
    ends_D, bytes_D = np.array([len(ids_T)]), np.array([num_bytes])
    part = Part(ids_T, ends_D, bytes_D)
    return TokenRow(lambda _: part, tokens_P=[len(ids_T)], bytes_P=[num_bytes], sources_P=["text"])
