"""Where a run stands: what its network and optimizers hold, and when that is written to disk."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pocketlm.stages.train.checkpoint import Checkpoint, save_checkpoint
from pocketlm.stages.train.distributed import Team
from pocketlm.stages.train.optim import optimizer_tensors, restore_optimizer

if TYPE_CHECKING:
    from pocketlm.stages.train.step import Step

WEIGHTS = "model."
"""Before the name of every parameter in a checkpoint; moments carry their own names."""


def learned(compute: "Step") -> dict[str, torch.Tensor]:
    """Weights and moments by name, on the host; where they are trained there, not copied."""
    network = compute.network
    weights = {f"{WEIGHTS}{n}": p.detach().cpu() for n, p in network.named_parameters()}
    return weights | optimizer_tensors(compute.optimizers, network)


def put_back(compute: "Step", tensors: Mapping[str, torch.Tensor], num_updates: int) -> None:
    """Weights and moments as they were after `num_updates` updates; the optimizer may keep the
    tensors given."""
    with torch.no_grad():
        for name, parameter in compute.network.named_parameters():
            parameter.copy_(tensors[f"{WEIGHTS}{name}"])
    restore_optimizer(compute.optimizers, compute.network, tensors, num_updates)


class Keeper:
    """Writes checkpoints, every so many seconds and when told to; the team's first alone."""

    def __init__(self, team: Team, seconds: float) -> None:
        self._team, self._seconds = team, seconds
        self._saved = time.monotonic()
        self.folder: Path | None = None

    def is_due(self) -> bool:
        """The last one is older than the recipe wants."""
        return time.monotonic() - self._saved > self._seconds

    def save(
        self,
        tensors: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
        *,
        best_step: int | None,
    ) -> None:
        """Write all that a resume needs; raises `StageError` where there is no room."""
        if self.folder is not None and self._team.rank == 0:
            checkpoint = Checkpoint(tensors, state)
            save_checkpoint(self.folder, state["step"], checkpoint, best_step=best_step)
        self._saved = time.monotonic()
        self._team.wait()  # who goes on, or ends, before it is written could spoil it
