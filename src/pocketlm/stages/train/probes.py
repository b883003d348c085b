"""Fixed sets of blocks whose loss is taken again and again while the child learns.

The parts are blocks of the first round that were trained at about one step each: what their loss
does afterwards is the paper's curve of forgetting. The yardstick is text nobody trains on: it shows
what a loss of an earlier step is worth later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.draw import FloatArray
from pocketlm.stages.train.resample import watches
from pocketlm.stages.train.rounds import Round, Trend

_YARDSTICK_BLOCKS = (8, 64)
_YARDSTICK_SHARE = 1500  # one block for so many: 45 looks then cost 1 % of a pass of training
_AT_ONCE = 16

Row = dict[str, float]
FrozenLosses = Callable[[Blocks, IntArray], FloatArray]
"""Numbers of blocks, shape (B,) -> loss of each, nats per token, nothing learned."""
Fixed = tuple[Blocks, IntArray]
"""Some blocks, by their numbers."""


@dataclass(frozen=True)
class ProbePlan:
    """What is looked at, and after which steps."""

    steps: frozenset[int]
    part_steps: tuple[int, ...]
    """The first step that trains on each part."""
    sets: tuple[Fixed, ...]
    """The yardstick and each part."""

    @property
    def num_blocks(self) -> int:
        """Blocks scored at each look."""
        return sum(block_B.size for _, block_B in self.sets)

    def look(self, losses: FrozenLosses) -> Row:
        """Mean loss of each set, nats per token: yardstick, part_1, part_2, ..."""
        names = ["yardstick", *(f"part_{n}" for n in range(1, len(self.sets)))]
        return {n: _mean(losses, *one) for n, one in zip(names, self.sets, strict=True)}


def plan_probes(
    table: TrainTable,
    blocks: Blocks,
    first: Round,
    first_steps: Sequence[int],
    held_out: Blocks | None,
) -> ProbePlan | None:
    """The plan of a run; None where nothing asks for one.

    `first_steps`: of each round, then the number of all steps. Without text held back, training
    blocks spread over the corpus are the yardstick: each is trained once a round, which the trend
    then holds too.
    """
    if not watches(table):
        return None
    total, size = first_steps[-1], min(table.probe_blocks, first.size)
    middles = (np.arange(table.probe_parts) + 0.5) / max(1, table.probe_parts) * first.size
    starts = np.clip(middles.astype(np.int64), 0, first.size - size)
    parts = [first.at(start + np.arange(size)) for start in starts]
    before = starts // first.batch_size
    after = (starts + size - 1) // first.batch_size + 1
    even = np.linspace(0, total, table.probe_times + 1).round().astype(np.int64)
    early = 2 ** np.arange(max(1, total).bit_length())
    steps = {*even.tolist(), *early[early < total].tolist(), *first_steps}
    return ProbePlan(
        steps=frozenset(steps | {*before.tolist(), *after.tolist()}),
        part_steps=tuple(before.tolist()),
        sets=(_yardstick(blocks, held_out), *((blocks, part_B) for part_B in parts)),
    )


def trend_of(rows: Sequence[Row]) -> Trend:
    """Loss of the yardstick at any step, straight lines over the logarithm of the step."""
    step_R = np.log1p([row["step"] for row in rows])
    loss_R = np.array([row["yardstick"] for row in rows])
    return lambda step_B: np.interp(np.log1p(step_B), step_R, loss_R)


def _yardstick(blocks: Blocks, held_out: Blocks | None) -> Fixed:
    source = held_out if held_out is not None and len(held_out) else blocks
    least, most = _YARDSTICK_BLOCKS
    wanted = min(most, max(least, len(blocks) // _YARDSTICK_SHARE), len(source))
    return source, np.linspace(0, len(source) - 1, wanted).round().astype(np.int64)


def _mean(losses: FrozenLosses, blocks: Blocks, block_B: IntArray) -> float:
    chunks = [block_B[start : start + _AT_ONCE] for start in range(0, block_B.size, _AT_ONCE)]
    losses_B = np.concatenate([losses(blocks, chunk_B) for chunk_B in chunks])
    return float(losses_B.mean(dtype=np.float64))
