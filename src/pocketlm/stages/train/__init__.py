"""Stage 4, train: read everything once, then what the child still finds hard.

Paper, multiple-round training: after a pass over the corpus the frozen child scores every block,
blocks are drawn without replacement with p proportional to exp(loss), and the next round reads
those. Two rounds with half of the blocks in the second are the paper's choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import CorpusError, RecipeError
from pocketlm.model.child import Child
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.resample import References, check_parent_losses
from pocketlm.stages.train.rounds import round_sizes
from pocketlm.tables import build_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.stages.train.loop import Learner

__all__ = ["References", "Trained", "train"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A child after all rounds, and how it got there."""

    child: Child
    log: tuple[dict[str, float], ...]
    """One row every few steps: step, round, tokens, loss (nats per token), rate, grad_norm,
    seconds."""
    checks: tuple[dict[str, float], ...]
    """One row for each of `check_at`: share, step, tokens, bits_per_byte."""
    ledger_N: "np.ndarray[Any, np.dtype[np.floating[Any]]]"
    """Loss of each block when it was last trained on, nats per token; NaN where never. float32,
    float16 from 67 million blocks on."""
    effective_sizes: tuple[float, ...]
    """Per draw that looks at losses: 1 / sum p^2 of its distribution, in blocks or batches (the
    recipe's unit); near their number means the draw was close to uniform."""
    probes: tuple[dict[str, float], ...]
    """One row a look: step, tokens, and the loss of yardstick, part_1, part_2, ... (nats per token)
    with nothing learned."""
    part_steps: tuple[int, ...]
    """The first step that trained on each part."""
    num_scored: int
    """Blocks the child scored without learning, probes included."""
    num_parent_scored: int
    """Blocks the parent scored."""
    passed_over: tuple[str, ...]
    """Damaged checkpoints that a resume refused, by name."""
    num_bytes: int
    """UTF-8 bytes read by the steps of all rounds."""
    skipped: tuple[Mapping[str, Any], ...]
    """The step and the blocks of each update left out because loss or gradient was not finite."""
    choices: Mapping[str, Any]
    """What the run decided by itself: attention, compile, micro_blocks, cross_entropy."""


def train(
    child: Child,
    blocks: Blocks,
    *,
    rng: np.random.Generator,
    checkpoints: Path | None = None,
    bits_per_byte: "Callable[[PreTrainedModel], float] | None" = None,
    references: References | None = None,
    progress: Progress = SILENT,
    **settings: Any,
) -> Trained:
    """Train `child` on `blocks` for `rounds` rounds; `settings` are the keys of `[train]`.

    `references`: the parent's losses, for `excess-loss`, its predictions, for `distil`, and text
    held back. `bits_per_byte` scores
    the network at the points of `check_at`; without it none is taken.
    With `checkpoints` a killed call continues where it was, to the same bits on the same machine.
    Raises `Interrupted` after a signal (checkpoint written), `RecipeError` for a wrong setting,
    `CorpusError` if there is not one block, `StageError` if the loss stays non-finite.
    """
    from pocketlm.stages.train.loop import Learner

    table, num_blocks = _table_for(blocks, settings), len(blocks)
    check_parent_losses(table, has_parent=_has_parent(table, references))
    keys = [int(key) for key in rng.integers(2**63, size=2 * table.rounds)]
    sizes = round_sizes(table, num_blocks)
    learner = Learner(child, blocks, table, sizes, bits_per_byte, references)
    learner.resume(checkpoints)
    if learner.passed_over:
        progress.warn(
            f"damaged checkpoints are passed over: {', '.join(learner.passed_over)}; going on from "
            f"step {learner.step}"
        )
    num_bytes = 0
    for number in range(table.rounds):
        chosen_K = None
        if number and sizes[number] < num_blocks:
            chosen_K = learner.hard_blocks(number, key=keys[2 * number], progress=progress)
        learner.run_round(number, chosen_K, key=keys[2 * number + 1], progress=progress)
        num_bytes += blocks.num_bytes(chosen_K)
    return _trained(learner, num_bytes)


def _has_parent(table: TrainTable, references: References | None) -> bool:
    given = references or References()
    return bool(given.teacher if table.distils else given.parent_losses)


def _trained(learner: "Learner", num_bytes: int) -> Trained:
    choice = learner.choice
    return Trained(
        child=learner.child(),
        log=tuple(learner.journal.log),
        checks=tuple(learner.journal.checks),
        ledger_N=choice.ledger_N,
        effective_sizes=tuple(choice.effective_sizes),
        probes=tuple(choice.probes),
        part_steps=choice.part_steps,
        num_scored=choice.num_scored,
        num_parent_scored=choice.num_parent_scored,
        passed_over=learner.passed_over,
        num_bytes=num_bytes,
        skipped=tuple(learner.journal.skipped),
        choices=learner.choices.as_dict(),
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
