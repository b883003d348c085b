"""Stage 4, train: read everything once, then what the child still finds hard.

Paper, multiple-round training: after a pass over the corpus the frozen child scores every block,
blocks are drawn without replacement with p proportional to exp(loss), and the next round reads
those. Two rounds with half of the blocks in the second are the paper's choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import CorpusError, RecipeError
from pocketlm.model.child import Child
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import TrainTable
from pocketlm.tables import build_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A child after all rounds, and how it got there."""

    child: Child
    log: tuple[dict[str, float], ...]
    """One row every few steps: step, round, tokens, loss (nats per token), rate, grad_norm,
    seconds."""
    checks: tuple[dict[str, float], ...]
    """One row for each of `check_at`: share, step, tokens, bits_per_byte."""
    ledger_N: "np.ndarray[Any, np.dtype[np.float32]]"
    """Loss of each block when it was last trained on, nats per token; NaN where never."""
    effective_sizes: tuple[float, ...]
    """Per scoring pass: 1 / sum p^2 of the drawing distribution, in blocks; near N means the draw
    was close to uniform."""
    passed_over: tuple[str, ...]
    """Damaged checkpoints that a resume refused, by name."""
    num_bytes: int
    """UTF-8 bytes read by the steps of all rounds."""
    num_skipped: int
    """Steps left out because loss or gradient was not finite."""


def train(
    child: Child,
    blocks: Blocks,
    *,
    rng: np.random.Generator,
    checkpoints: Path | None = None,
    bits_per_byte: "Callable[[PreTrainedModel], float] | None" = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Trained:
    """Train `child` on `blocks` for `rounds` rounds; `settings` are the keys of `[train]`.

    `bits_per_byte` scores the network at the points of `check_at`; without it none is taken.
    With `checkpoints` a killed call continues where it was, to the same bits on the same machine.
    Raises `Interrupted` after a signal (checkpoint written), `RecipeError` for a wrong setting,
    `CorpusError` if there is not one block, `StageError` if the loss stays non-finite.
    """
    from pocketlm.stages.train.loop import Learner

    table, num_blocks = _table_for(blocks, settings), len(blocks)
    seeds = [int(seed) for seed in rng.integers(2**63, size=2 * table.rounds)]
    later = max(1, round(table.keep_fraction * num_blocks))
    sizes = [num_blocks] + [later] * (table.rounds - 1)
    learner = Learner(child, blocks, table, sizes, bits_per_byte)
    learner.resume(checkpoints)
    num_bytes = 0
    for number in range(table.rounds):
        chosen_K = np.arange(num_blocks)
        if number and later < num_blocks:
            draw_rng = np.random.default_rng(seeds[2 * number])
            chosen_K = learner.hard_blocks(number, later, rng=draw_rng, progress=progress)
        learner.run_round(number, chosen_K, key=seeds[2 * number + 1], progress=progress)
        num_bytes += blocks.num_bytes(chosen_K)
    return Trained(
        child=learner.child(),
        log=tuple(learner.log),
        checks=tuple(learner.checks),
        ledger_N=learner.ledger_N,
        effective_sizes=tuple(learner.effective_sizes),
        passed_over=learner.passed_over,
        num_bytes=num_bytes,
        num_skipped=learner.num_skipped,
    )


def _table_for(blocks: Blocks, settings: dict[str, Any]) -> TrainTable:
    """`[train]` complete; raises for settings and blocks that do not go together."""
    table = build_table(TrainTable, {"seq_len": blocks.seq_len, **settings}, "[train]")
    if table.seq_len != blocks.seq_len:
        raise RecipeError(f"[train] seq_len = {table.seq_len}: these blocks have {blocks.seq_len}")
    if not len(blocks):
        raise CorpusError(
            f"[train] seq_len = {blocks.seq_len}: the training text has {len(blocks.tokens)} "
            "tokens, not one block; give more text"
        )
    return table
