"""Loss spikes: go back to weights from before, and leave out the blocks in between.

PaLM (arXiv 2204.02311, section 5.1) restarted some 100 steps before a spike and skipped the batches
around it; it did not come back. Here the steps go on counting, so order and rate of all that
follows stay what they were; only the updates of the steps that are left out are undone. When to go
back is decided by the losses of numbered steps and never by a clock. Robust spread (1.4826 times
the median distance from the median) and the lengths below are ours.
"""

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.errors import StageError
from pocketlm.stages.train.standing import learned, put_back

if TYPE_CHECKING:
    from pocketlm.stages.train.choice import Choice
    from pocketlm.stages.train.journal import Journal
    from pocketlm.stages.train.rounds import Round
    from pocketlm.stages.train.step import Step

_NEW = 10  # steps judged at once, and between two looks
_LEVEL = 100  # steps before them that say what is usual; half as many will do
_KEEP_EVERY = 100  # steps, later where they are not calm
_SPREAD = 1e-3  # nats, at least: losses that do not move at all are no measure
_MOST = 5  # times
_KEPT = "back."


class Watch:
    """The losses of a round's last steps, and a copy of weights and moments to go back to."""

    def __init__(self, limit: float | bool, compute: "Step") -> None:
        self._limit, self._compute = float(limit), compute
        self._losses: list[tuple[int, float]] = []
        self._kept: dict[str, torch.Tensor] = {}
        self._kept_at = [0, 0]  # steps done then, and updates made

    def add(self, step: int, loss: float) -> None:
        """A step that counted."""
        if self._limit:
            self._losses = [*self._losses[1 - _NEW - _LEVEL :], (step, loss)]

    def begin(self, step: int, num_updates: int) -> None:
        """A round begins here: other blocks have another level, and nobody goes back behind it."""
        if self._limit:
            self._losses = []
            self._keep(step, num_updates)

    def is_time(self, step: int, this: "Round") -> bool:
        """Whether to look after `step` steps; their losses must have been added."""
        return bool(self._limit) and (step - this.first_step) % _NEW == 0

    def look(self, step: int, this: "Round", journal: "Journal", choice: "Choice") -> str:
        """Go back if the loss has spiked, else keep a copy now and then; words for the first.

        Raises `StageError` for one spike too many, with the numbers of its blocks.
        """
        raised = self._raised()
        if raised <= _NEW // 2:
            if raised <= 1 and step >= self._kept_at[0] + _KEEP_EVERY:
                self._keep(step, journal.num_updates(step))
            return ""
        first = max(self._kept_at[0], *(row["until"] for row in journal.undone), 0)
        block_K = this.between(first, step)
        if len(journal.undone) == _MOST:
            raise StageError(
                f"step {step}: the loss has spiked for the {_MOST + 1}th time (blocks "
                f"{block_K[:4].tolist()}... of steps {first} to {step - 1}); lower learning_rate"
            )
        # The optimizer writes into what it is given.
        copies = {name: tensor.clone() for name, tensor in self._kept.items()}
        put_back(self._compute, copies, self._kept_at[1])
        self._losses = [(at, loss) for at, loss in self._losses if at < first]
        journal.undone.append({"step": first, "until": step, "blocks": block_K.tolist()})
        choice.undo(block_K, first, step)
        return (
            f"the loss has spiked: weights are those after step {self._kept_at[0]} again, the "
            f"blocks of steps {first} to {step - 1} are left out"
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps: as much as weights and moments once more."""
        return {f"{_KEPT}{name}": tensor for name, tensor in self._kept.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside it."""
        return {"watched": [self._losses, self._kept_at]} if self._limit else {}

    def restore(self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take back what `tensors` and `state` gave, out of those of the whole run."""
        for name in [name for name in tensors if name.startswith(_KEPT)]:
            self._kept[name.removeprefix(_KEPT)] = tensors.pop(name)
        if "watched" in state:
            losses, self._kept_at = state["watched"]
            self._losses = [(step, loss) for step, loss in losses]

    def _keep(self, step: int, num_updates: int) -> None:
        found = learned(self._compute)
        if self._compute.device.type == "cpu":  # these are the live ones
            found = {name: tensor.clone() for name, tensor in found.items()}
        self._kept, self._kept_at = found, [step, num_updates]

    def _raised(self) -> int:
        """How many of the newest losses are above their level by more than `limit` spreads."""
        before = [loss for _, loss in self._losses[:-_NEW]]
        if len(before) < _LEVEL // 2:
            return 0
        level = median(before)
        spread = max(1.4826 * median(abs(loss - level) for loss in before), _SPREAD)
        return sum(loss > level + self._limit * spread for _, loss in self._losses[-_NEW:])
