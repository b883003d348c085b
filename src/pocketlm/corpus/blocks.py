"""Training blocks, and their order by arithmetic: any block again by its number.

Shapes: N blocks, B of them in a batch, T = seq_len tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks of `seq_len` tokens over one long row of token ids."""

    tokens: "np.ndarray[Any, np.dtype[Any]]"
    seq_len: int
    bytes_per_token: float = 1.0
    """UTF-8 bytes behind one token, on average; turns tokens seen into bytes seen."""

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def batch(self, blocks_B: IntArray) -> IntArray:
        """Ids of the given blocks, shape (B, T + 1): inputs and, shifted by one, targets."""
        columns = np.arange(self.seq_len + 1)
        ids_BT1: IntArray = self.tokens[blocks_B[:, None] * self.seq_len + columns].astype(np.int64)
        return ids_BT1


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
