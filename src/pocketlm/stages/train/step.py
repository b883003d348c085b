"""One step: blocks -> loss of each -> gradients -> update, without asking the device anything.

Gradients of micro-batches add up: each contributes the sum of its losses over the number of blocks
of the whole step, and blocks are equally long, so every token weighs the same whatever the split.
Whether loss and gradient are finite is decided on the device, which then leaves the update out; the
host learns of it when it fetches the losses. Where several processes work together each makes the
gradient of its part, and torch's DDP adds them up while the last of them is being made.

Shapes: B blocks of the step, P of them this process's.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from pocketlm.hardware import resolve_hardware
from pocketlm.method import pick
from pocketlm.model.attention import register_attention
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses, summed_loss
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.automatic import Choices, usual_choices
from pocketlm.stages.train.distil import Lesson, Taught, distilled_loss
from pocketlm.stages.train.distributed import ALONE, Team
from pocketlm.stages.train.optim import OPTIMIZERS

Loss = Callable[
    [torch.Tensor, torch.Tensor | None, Taught | None], tuple[torch.Tensor, torch.Tensor]
]


@dataclass(frozen=True)
class Outcome:
    """What a step found, still on the device."""

    losses_B: torch.Tensor
    """Of each block of the whole step, nats per token."""
    norm: torch.Tensor
    """Of the whole gradient before clipping; where it or a loss is not finite there was no
    update."""


class Step:
    """Network, optimizers and the way to compute: all that turns ids into an update."""

    def __init__(self, child: Child, table: TrainTable, team: Team = ALONE) -> None:
        self._team = team
        self._own_blocks = -(-(table.batch_tokens // table.seq_len) // team.size)
        hardware = resolve_hardware(table.dtype)
        register_attention()
        self.device = torch.device(hardware.device)
        self.network: PreTrainedModel = child.network().to(self.device).train()
        if table.recompute:
            # Renamed between transformers 5.20 and 5.23.
            name = "activation_checkpointing_enable"
            enable = getattr(self.network, name, self.network.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        optimizers = pick(OPTIMIZERS, table.optimizer, "[train] optimizer")
        self.optimizers = optimizers(self.network, weight_decay=table.weight_decay)
        self._bfloat16, self._clip = hardware.dtype == "bfloat16", table.clip
        self._temperature = table.distil_temperature
        own = table.model_copy(update={"batch_tokens": self._own_blocks * table.seq_len})
        self.choose(usual_choices(child.shape, own, hardware.device))
        self._together: DistributedDataParallel | None = None
        if team.size > 1:
            self._together = DistributedDataParallel(_LossOf(self.network, self._any_loss))

    def choose(self, choices: Choices) -> None:
        """Compute like this from now on."""
        # Those of a checkpoint may come from fewer processes, each with a larger part.
        blocks = min(choices.micro_blocks, self._own_blocks)
        self.choices = replace(choices, micro_blocks=blocks)
        self.network.set_attn_implementation(choices.attention)
        self._compiled: Loss | None = None
        if choices.compile:
            # Only whole micro-batches: a last, smaller one would be compiled for itself alone.
            self._compiled = torch.compile(self._loss, dynamic=False)

    def losses(self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Loss of each block (B,), nats per token, without a gradient; `place_BT`: places of the
        inputs in their documents, which then do not see each other."""
        self.network.eval()
        with torch.inference_mode(), self._arithmetic():
            pieces = self._pieces(ids_BT1, place_BT)
            losses = [block_losses(self.network, ids, places) for _, ids, places in pieces]
            losses_B = torch.cat(losses)
        self.network.train()
        return losses_B

    @contextmanager
    def scoring(self) -> Iterator[PreTrainedModel]:
        """The network for others to look at, with an attention that takes masks and caches."""
        self.network.set_attn_implementation("sdpa")
        self.network.eval()
        try:
            yield self.network
        finally:
            self.network.train()
            self.network.set_attn_implementation(self.choices.attention)

    def gradients(
        self, ids_PT1: torch.Tensor, place_PT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Add the gradient of the mean loss to the parameters'; returns the losses (P,).

        Of these blocks alone, whatever other processes do.
        """
        return self._gradients((ids_PT1, place_PT), 1 / len(ids_PT1), self._any_loss)

    def clear(self) -> None:
        """Forget all gradients."""
        self.network.zero_grad(set_to_none=True)

    def update(
        self,
        ids_PT1: torch.Tensor,
        place_PT: torch.Tensor | None = None,
        *,
        num_blocks: int,
        rate: float,
        lesson: Lesson | None = None,
    ) -> Outcome:
        """One update at this rate; none if a loss or the gradient is not finite.

        `ids_PT1`: this process's part of the step's `num_blocks`. Where nothing is left for it,
        any block, which then weighs nothing: the others wait for its gradient. `lesson`: the
        parent's part, if it has one.
        """
        own = self._team.part(np.arange(num_blocks)).size
        # DDP takes the mean over processes of what is a sum.
        weight = self._team.size / num_blocks if own else 0.0
        loss: Loss = self._together or self._any_loss
        losses_P = self._gradients((ids_PT1, place_PT), weight, loss, lesson)[:own]
        losses_B = self._team.gather(losses_P, num_blocks)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        finite = torch.isfinite(losses_B).all() & torch.isfinite(norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as AMP does
            optimizer.step()
        self.clear()
        return Outcome(losses_B, norm)

    def _gradients(
        self,
        batch: tuple[torch.Tensor, torch.Tensor | None],
        weight: float,
        loss: Loss,
        lesson: Lesson | None = None,
    ) -> torch.Tensor:
        """Add `weight` times the gradient of the summed loss; the processes meet in the last
        micro-batch."""
        losses, pieces = [], list(self._pieces(*batch))
        for number, (piece, ids, places) in enumerate(pieces, start=1):
            with self._arithmetic():
                taught = lesson.taught(piece, ids, places) if lesson else None
            with nullcontext() if number == len(pieces) else self._alone():
                total, losses_B = loss(ids, places, taught)
                (total * weight).backward()  # type: ignore[no-untyped-call]  # torch: no types
            losses.append(losses_B)
        return torch.cat(losses)

    def _pieces(
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
        """Micro-batches: where they lie, ids and, where there are any, places."""
        for start in range(0, len(ids_BT1), self.choices.micro_blocks):
            piece = slice(start, start + self.choices.micro_blocks)
            yield piece, ids_BT1[piece], None if place_BT is None else place_BT[piece]

    def _alone(self) -> AbstractContextManager[None]:
        return self._together.no_sync() if self._together else nullcontext()

    def _any_loss(
        self,
        ids_BT1: torch.Tensor,
        place_BT: torch.Tensor | None,
        taught: Taught | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compiled, if chosen and the micro-batch is a whole one."""
        whole = len(ids_BT1) == self.choices.micro_blocks
        loss = self._compiled if self._compiled and whole else self._loss
        return loss(ids_BT1, place_BT, taught)

    def _loss(
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None, taught: Taught | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with self._arithmetic():
            if taught is not None:
                return distilled_loss(self.network, ids_BT1, place_BT, taught, self._temperature)
            chunked = self.choices.cross_entropy == "chunked"
            return summed_loss(self.network, ids_BT1, place_BT, chunked=chunked)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)


class _LossOf(torch.nn.Module):
    """The loss as a module, which is what DDP takes: it looks for parameters and calls forward."""

    def __init__(self, network: PreTrainedModel, loss: Loss) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(
        self,
        ids_BT1: torch.Tensor,
        place_BT: torch.Tensor | None,
        taught: Taught | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._loss(ids_BT1, place_BT, taught)
