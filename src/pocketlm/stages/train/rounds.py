"""Rounds: which blocks each one reads and in which order, and what every block's loss was.

A round's order is a keyed permutation, so nothing but a key is kept of it; a draw is one bit a
block or batch; the ledger is one slot a block, written by number, so repeating a step after a
resume changes nothing.
Shapes: N blocks, K of them drawn, B in a step, U units (blocks or batches).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import IntArray, shuffled
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.draw import Bits, FloatArray, numbers_of

_LONG = 2**26  # blocks; from here on two bytes a loss: 781 million take 1.6 GB, to 0.004 nats
_CHUNK = 2**16
Trend = Callable[[IntArray], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One pass: its blocks, their order, and where it stands among all steps."""

    size: int
    """Blocks it reads."""
    key: int
    """Of the order."""
    first_step: int
    batch_size: int
    """Blocks of a step; the last has what is left."""
    chosen_K: Any = None
    """Numbers of its blocks, ascending; None: all."""

    @property
    def num_steps(self) -> int:
        """Steps of the round."""
        return math.ceil(self.size / self.batch_size)

    def batch(self, step: int) -> IntArray:
        """Blocks of a step, counted over all rounds; shape (B,)."""
        return self.between(step, step + 1)

    def between(self, step: int, last: int) -> IntArray:
        """Blocks of the steps from `step` up to and without `last`."""
        start, stop = ((s - self.first_step) * self.batch_size for s in (step, last))
        return self.at(np.arange(start, min(stop, self.size)))

    def at(self, position_B: IntArray) -> IntArray:
        """Blocks at these positions of the round's order."""
        where_B = shuffled(position_B, size=self.size, key=self.key)
        if self.chosen_K is None:
            return where_B
        block_B: IntArray = self.chosen_K[where_B].astype(np.int64)
        return block_B

    def chunks(self) -> Iterator[tuple[IntArray, IntArray]]:
        """All positions and their blocks, whole batches at a time."""
        step = self.batch_size * max(1, _CHUNK // self.batch_size)
        for start in range(0, self.size, step):
            position_B = np.arange(start, min(start + step, self.size))
            yield position_B, self.at(position_B)

    def batch_means(self, score_N: FloatArray) -> FloatArray:
        """Mean score of each batch, float32, shape (U,)."""
        means = []
        for position_B, block_B in self.chunks():
            edges = np.arange(0, position_B.size, self.batch_size)
            sums = np.add.reduceat(score_N[block_B].astype(np.float64), edges)
            means.append(sums / np.diff(np.append(edges, position_B.size)))
        return np.concatenate(means).astype(np.float32)

    def blocks_of(self, batch_U: IntArray) -> IntArray:
        """All blocks of these batches, ascending."""
        positions = batch_U.astype(np.int64)[:, None] * self.batch_size + np.arange(self.batch_size)
        return np.sort(self.at(positions[positions < self.size]))


def units_drawn(table: TrainTable, num_blocks: int) -> tuple[int, int]:
    """How many blocks or batches a later round draws, and of how many."""
    batch_size = table.batch_tokens // table.seq_len
    units = math.ceil(num_blocks / batch_size) if table.unit == "batch" else num_blocks
    return max(1, round(table.keep_fraction * units)), units


def round_sizes(table: TrainTable, num_blocks: int) -> list[int]:
    """Blocks of each round; where batches are drawn, at most a batch too many."""
    drawn, units = units_drawn(table, num_blocks)
    each = table.batch_tokens // table.seq_len if table.unit == "batch" else 1
    later = num_blocks if drawn == units else drawn * each
    return [num_blocks] + [later] * (table.rounds - 1)


def drawn_blocks(bits: Bits, table: TrainTable, first: Round) -> Any:
    """The numbers of the blocks that a draw stands for, ascending."""
    _, units = units_drawn(table, first.size)
    unit_U = numbers_of(bits, units)
    return first.blocks_of(unit_U) if table.unit == "batch" else unit_U


def new_ledger(num_blocks: int) -> FloatArray:
    """A loss for each block, none known yet: NaN, float32, and float16 from 67 million blocks."""
    return np.full(num_blocks, np.nan, np.float16 if num_blocks >= _LONG else np.float32)


def carried(ledger_N: FloatArray, rounds: Sequence[Round], trend: Trend, step: int) -> FloatArray:
    """What the recorded losses are worth at `step`: each moves as `trend` did since it was taken.

    A block read early looks hard because the child was young. `rounds`: those behind, in order;
    `trend`: steps -> loss of text that shows the child's age. A block without a loss (its step was
    skipped) counts as average. Shape (N,), the ledger's precision.
    """
    now_N = ledger_N.copy()
    for one in rounds:
        for position_B, block_B in one.chunks():
            step_B = one.first_step + position_B // one.batch_size
            since_B = np.subtract(trend(np.array([step])), trend(step_B))
            now_N[block_B] = ledger_N[block_B] + since_B.astype(ledger_N.dtype)
    unknown_N = np.isnan(now_N)
    if unknown_N.any():
        now_N[unknown_N] = now_N[~unknown_N].mean(dtype=np.float64)
    return now_N
