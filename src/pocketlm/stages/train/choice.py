"""From what is known of the blocks to the blocks a round reads; part of every checkpoint.

Shapes: N blocks, B of them at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.errors import StageError
from pocketlm.method import pick
from pocketlm.progress import Progress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.distributed import Team
from pocketlm.stages.train.draw import Bits, FloatArray, draw, effective_size
from pocketlm.stages.train.probes import FrozenLosses, ProbePlan, Row, plan_probes, trend_of
from pocketlm.stages.train.resample import RESAMPLERS, BlockLosses, Evidence, References
from pocketlm.stages.train.rounds import Round, carried, drawn_blocks, new_ledger, units_drawn


@dataclass
class Pass:
    """All blocks being scored by one network, in their order."""

    loss_N: FloatArray
    num_done: int = 0


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
        self._team = Team.current()
        self._passes: dict[str, Pass] = {}  # made for the draw under way
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

    def undo(self, block_K: IntArray, first: int, last: int) -> None:
        """The steps from `first` up to `last` are not in the weights any more: the losses of their
        blocks are unknown, and looks taken meanwhile say nothing of the child's age."""
        self.ledger_N[block_K] = np.nan
        for row in self.probes:
            if first < row["step"] <= last:
                row["undone"] = 1.0

    def is_drawn(self, number: int) -> bool:
        """Whether round `number` was drawn, before a resume too: weights have moved on since."""
        return number in self._bits

    def draw(self, number: int, *, key: int, progress: Progress, pause: Callable[[], None]) -> None:
        """Draw round `number` by the recipe's method; `pause` is called now and then in a pass."""
        evidence = Evidence(
            now=lambda: self._now(progress, pause),
            when_trained=self._recorded,
            parent=lambda: self._parent(progress, pause),
        )
        score, first = self._resample(evidence), self._rounds[0]
        if score is not None and self._table.unit == "batch":
            score = first.batch_means(score)
        drawn, units = units_drawn(self._table, len(self._blocks))
        heat = self._table.temperature
        if score is not None:
            self.effective_sizes.append(effective_size(score, heat))
        bits = draw(score, num_units=units, num_drawn=drawn, key=key, temperature=heat)
        # Another machine's logarithm may differ in the last bit, and then the draw by a block.
        self._bits[number] = self._team.array_of_first(bits)
        num_blocks = len(self._blocks)
        self.num_scored += num_blocks * ("child" in self._passes)
        self.num_parent_scored += num_blocks * ("parent" in self._passes)
        self._passes.clear()

    def blocks(self, number: int) -> Any:
        """The blocks drawn for round `number`, ascending."""
        return drawn_blocks(self._bits[number], self._table, self._rounds[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, block by block."""
        arrays: dict[str, Any] = {"ledger": self.ledger_N}
        arrays |= {f"drawn.{number}": bits for number, bits in self._bits.items()}
        arrays |= {f"pass.{name}": one.loss_N for name, one in self._passes.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside it."""
        return {
            "probes": self.probes,
            "effective_sizes": self.effective_sizes,
            "scored": [self.num_scored, self.num_parent_scored],
            "passes": {name: one.num_done for name, one in self._passes.items()},
        }

    def restore(self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take back what `tensors` and `state` gave, out of those of the whole run."""
        self.ledger_N = tensors.pop("ledger").numpy()
        for name in [name for name in tensors if name.startswith("drawn.")]:
            self._bits[int(name.removeprefix("drawn."))] = tensors.pop(name).numpy()
        for name, num_done in state["passes"].items():
            self._passes[name] = Pass(tensors.pop(f"pass.{name}").numpy(), num_done)
        self.probes, self.effective_sizes = state["probes"], state["effective_sizes"]
        self.num_scored, self.num_parent_scored = state["scored"]

    def _now(self, progress: Progress, pause: Callable[[], None]) -> FloatArray:
        if self._table.losses == "recorded":
            return self._recorded()
        return self._frozen(progress, pause)

    def _frozen(self, progress: Progress, pause: Callable[[], None]) -> FloatArray:
        return self._scored("child", lambda: self._child_losses, progress, pause)

    def _child_losses(self, block_B: IntArray) -> FloatArray:
        return self._losses(self._blocks, block_B)

    def _parent(self, progress: Progress, pause: Callable[[], None]) -> FloatArray:
        open_parent = self._references.parent_losses
        assert open_parent is not None  # checked before the first step
        return self._scored("parent", open_parent, progress, pause)

    def _scored(
        self,
        who: str,
        open_losses: Callable[[], BlockLosses],
        progress: Progress,
        pause: Callable[[], None],
    ) -> FloatArray:
        """Loss of every block under the child as it stands, or its parent; a killed pass goes
        on."""
        num_blocks = len(self._blocks)
        done = self._passes.setdefault(who, Pass(new_ledger(num_blocks)))
        at_once = 2 * (self._table.batch_tokens // self._table.seq_len)
        with progress.task(f"the {who} scores blocks", num_blocks, "block") as advance:
            advance(done.num_done)
            losses = open_losses() if done.num_done < num_blocks else None
            while losses and done.num_done < num_blocks:
                stop = min(done.num_done + at_once, num_blocks)
                block_B = np.arange(done.num_done, stop)
                done.loss_N[block_B] = self._team.shared(losses, block_B)
                done.num_done = stop
                advance(block_B.size)
                pause()
        wrong = int((~np.isfinite(done.loss_N)).sum())
        if wrong:
            remedy = {"child": "lower learning_rate", "parent": "take another resample"}[who]
            raise StageError(f"the {who}'s loss is not finite on {wrong} blocks; {remedy}")
        return done.loss_N

    def _recorded(self) -> FloatArray:
        """The ledger, carried to the last step by the yardstick."""
        looks = [row for row in self.probes if "undone" not in row]
        return carried(self.ledger_N, self._rounds, trend_of(looks), int(looks[-1]["step"]))
