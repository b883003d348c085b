"""Training blocks, and their order by arithmetic: any block again by its number.

Shapes: N blocks, B of them in a batch, T = seq_len tokens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.row import TokenRow, row_of

if TYPE_CHECKING:
    from pocketlm.corpus.mixture import Mixture

IntArray = np.ndarray[Any, np.dtype[np.int64]]
_BLOCKS_AT_ONCE = 2**20  # while bytes are added up


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks of `seq_len` tokens over one long row of token ids."""

    tokens: "np.ndarray[Any, np.dtype[Any]] | TokenRow"
    seq_len: int
    bytes_per_token: float = 1.0
    """UTF-8 bytes behind one token of a plain array, on average; a `TokenRow` knows its own."""
    mixture: "Mixture | None" = None
    """How often a pass reads each source. Default: every block of the row once."""

    def __len__(self) -> int:
        if self.mixture is not None:
            return len(self.mixture)
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def batch(self, blocks_B: IntArray) -> IntArray:
        """Ids of the given blocks, shape (B, T + 1): inputs and, shifted by one, targets."""
        return self._row.windows(self._starts(blocks_B), self.seq_len + 1)

    def positions(self, blocks_B: IntArray) -> IntArray:
        """Place of each input in its document, counted from the block's start where the document
        began before it, shape (B, T). A plain array is one document."""
        return self._row.positions(self._starts(blocks_B), self.seq_len)

    def num_bytes(self, blocks_B: IntArray | None = None) -> int:
        """UTF-8 bytes of the inputs of the given blocks, or of all, from those of each document.

        Blocks that lie side by side have exactly the bytes between their ends, so a pass has those
        of its text; a document that an edge cuts is split in proportion to its tokens.
        """
        num_blocks = len(self) if blocks_B is None else len(blocks_B)
        total = 0
        for start in range(0, num_blocks, _BLOCKS_AT_ONCE):
            stop = min(start + _BLOCKS_AT_ONCE, num_blocks)
            some_B = np.arange(start, stop) if blocks_B is None else blocks_B[start:stop]
            total += self._num_bytes(some_B.astype(np.int64))  # a draw's numbers are narrower
        return total

    def _num_bytes(self, blocks_B: IntArray) -> int:
        start_B = self._starts(blocks_B)
        before = self._row.bytes_before
        return int((before(start_B + self.seq_len) - before(start_B)).sum())

    def _starts(self, blocks_B: IntArray) -> IntArray:
        if self.mixture is not None:
            return self.mixture.starts(blocks_B)
        return blocks_B * self.seq_len

    @cached_property
    def _row(self) -> TokenRow:
        if isinstance(self.tokens, TokenRow):
            return self.tokens
        return row_of(self.tokens, round(len(self.tokens) * self.bytes_per_token))


def shuffled(position_B: IntArray, *, size: int, key: int) -> IntArray:
    """Where a keyed permutation of `size` numbers sends the given positions.

    A Feistel network on the next power of four, walked until the result is inside (Black and
    Rogaway 2002, cycle walking): no list of `size` numbers is ever held, at 10^9 blocks either.
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    out_B = _feistel(position_B.astype(np.uint64), half_bits, key)
    while (outside_B := out_B >= size).any():
        out_B[outside_B] = _feistel(out_B[outside_B], half_bits, key)
    where_B: IntArray = out_B.astype(np.int64)
    return where_B


def _feistel(value_B: Any, half_bits: int, key: int) -> Any:
    shift = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = value_B >> shift, value_B & mask
    for number in range(6):
        mixed = mix64(right + np.uint64((key + number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF))
        left, right = right, left ^ (mixed & mask)
    return left << shift | right


def mix64(value_U: Any, scratch_U: Any = None) -> Any:
    """The finaliser of splitmix64 (Steele et al. 2014), in place on uint64 and returned.

    Products wrap at 2^64 on purpose. `scratch_U` is working memory of the same shape.
    """
    scratch_U = np.empty_like(value_U) if scratch_U is None else scratch_U
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(value_U, np.uint64(shift), out=scratch_U)
        value_U ^= scratch_U
        value_U *= np.uint64(factor)
    np.right_shift(value_U, np.uint64(31), out=scratch_U)
    value_U ^= scratch_U
    return value_U
