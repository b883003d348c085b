"""From what is known of the blocks to the blocks a round reads; part of every checkpoint.

Shapes: N blocks, B of them at once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import StageError
from pocketlm.method import pick
from pocketlm.progress import Progress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.draw import Bits, FloatArray, draw, effective_size
from pocketlm.stages.train.probes import FrozenLosses, ProbePlan, Row, plan_probes, trend_of
from pocketlm.stages.train.resample import RESAMPLERS, Evidence, References
from pocketlm.stages.train.rounds import Round, carried, drawn_blocks, new_ledger, units_drawn


class Choice:
    """The ledger, the draws made by it, and the probes that say what its losses are worth."""

    def __init__(
        self, blocks: Blocks, table: TrainTable, references: References, losses: FrozenLosses
    ) -> None:
        self._blocks, self._table, self._references = blocks, table, references
        self._losses = losses
        self._resample = pick(RESAMPLERS, table.resample, "[train] resample")
        self._rounds: list[Round] = []
        self._bits: dict[int, Bits] = {}
        self._scores_N: FloatArray | None = None  # of a pass under way
        self._num_in_pass = 0
        self._plan: ProbePlan | None = None
        self.ledger_N = new_ledger(len(blocks))
        self.effective_sizes: list[float] = []
        self.probes: list[Row] = []
        self.part_steps: tuple[int, ...] = ()
        self.num_scored, self.num_parent_scored = 0, 0

    def begin(self, one: Round, first_steps: list[int]) -> None:
        """A round begins; the first decides what is probed."""
        if not self._rounds:
            held_out = self._references.held_out
            self._plan = plan_probes(self._table, self._blocks, one, first_steps, held_out)
            self.part_steps = () if self._plan is None else self._plan.part_steps
        self._rounds.append(one)

    def probe(self, step: int, tokens: int) -> None:
        """Look at the fixed sets if it is time; `tokens` have been trained on in `step` steps."""
        if self._plan is None or step not in self._plan.steps:
            return
        if self.probes and self.probes[-1]["step"] >= step:
            return  # a resumed run has been here
        row = self._plan.look(self._losses)
        self.probes.append({"step": step, "tokens": tokens, **row})
        self.num_scored += self._plan.num_blocks

    def is_drawn(self, number: int) -> bool:
        """Whether round `number` was drawn, before a resume too: weights have moved on since."""
        return number in self._bits

    def draw(self, number: int, *, key: int, progress: Progress, pause: Callable[[], None]) -> None:
        """Draw round `number` by the recipe's method; `pause` is called now and then in a pass."""
        evidence = Evidence(
            now=lambda: self._now(progress, pause),
            when_trained=self._recorded,
            parent=self._parent_losses,
        )
        score, first = self._resample(evidence), self._rounds[0]
        if score is not None and self._table.unit == "batch":
            score = first.batch_means(score)
        drawn, units = units_drawn(self._table, len(self._blocks))
        heat = self._table.temperature
        if score is not None:
            self.effective_sizes.append(effective_size(score, heat))
        self._bits[number] = draw(
            score, num_units=units, num_drawn=drawn, key=key, temperature=heat
        )

    def blocks(self, number: int) -> Any:
        """The blocks drawn for round `number`, ascending."""
        return drawn_blocks(self._bits[number], self._table, self._rounds[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, block by block."""
        arrays: dict[str, Any] = {"ledger": self.ledger_N}
        arrays |= {f"drawn.{number}": bits for number, bits in self._bits.items()}
        if self._scores_N is not None:
            arrays["scores"] = self._scores_N
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside it."""
        return {
            "probes": self.probes,
            "effective_sizes": self.effective_sizes,
            "scored": [self._num_in_pass, self.num_scored, self.num_parent_scored],
        }

    def restore(self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take back what `tensors` and `state` gave, out of those of the whole run."""
        self.ledger_N = tensors.pop("ledger").numpy()
        for name in [name for name in tensors if name.startswith("drawn.")]:
            self._bits[int(name.removeprefix("drawn."))] = tensors.pop(name).numpy()
        if "scores" in tensors:
            self._scores_N = tensors.pop("scores").numpy()
        # A run of one round keeps its key from before these were kept, and so its checkpoints.
        self.probes, self.effective_sizes = (
            state.get("probes", []),
            state.get("effective_sizes", []),
        )
        scored = state.get("scored", [0, 0, 0])
        self._num_in_pass, self.num_scored, self.num_parent_scored = scored

    def _now(self, progress: Progress, pause: Callable[[], None]) -> FloatArray:
        if self._table.losses == "recorded":
            return self._recorded()
        return self._frozen(progress, pause)

    def _frozen(self, progress: Progress, pause: Callable[[], None]) -> FloatArray:
        """Loss of every block under the child as it stands."""
        num_blocks = len(self._blocks)
        at_once = 2 * (self._table.batch_tokens // self._table.seq_len)
        scores_N = new_ledger(num_blocks) if self._scores_N is None else self._scores_N
        self._scores_N = scores_N
        with progress.task("score blocks", num_blocks, "block") as advance:
            advance(self._num_in_pass)
            while self._num_in_pass < num_blocks:
                stop = min(self._num_in_pass + at_once, num_blocks)
                block_B = np.arange(self._num_in_pass, stop)
                scores_N[block_B] = self._losses(self._blocks, block_B)
                advance(block_B.size)
                self._num_in_pass = stop
                pause()
        if not np.isfinite(scores_N).all():
            raise StageError(f"the child's loss is not finite on {(~np.isfinite(scores_N)).sum()} "
                             "blocks after a round; lower learning_rate")  # fmt: skip
        self._scores_N, self._num_in_pass = None, 0
        self.num_scored += num_blocks
        return scores_N

    def _recorded(self) -> FloatArray:
        """The ledger, carried to the last step by the yardstick."""
        step = int(self.probes[-1]["step"])
        return carried(self.ledger_N, self._rounds, trend_of(self.probes), step)

    def _parent_losses(self) -> FloatArray:
        assert self._references.parent_losses is not None  # checked before the first step
        self.num_parent_scored += len(self._blocks)
        return self._references.parent_losses()
