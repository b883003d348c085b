"""One step: blocks -> loss of each -> gradients -> update, without asking the device anything.

Gradients of micro-batches add up: each contributes the sum of its losses over the number of blocks
of the whole step, and blocks are equally long, so every token weighs the same whatever the split.
Whether loss and gradient are finite is decided on the device, which then leaves the update out; the
host learns of it when it fetches the losses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pocketlm.hardware import resolve_hardware
from pocketlm.method import pick
from pocketlm.model.attention import register_attention
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses, summed_loss
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.automatic import Choices, usual_choices
from pocketlm.stages.train.optim import OPTIMIZERS

Loss = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Outcome:
    """What a step found, still on the device."""

    losses_B: torch.Tensor
    """Of each block, nats per token."""
    norm: torch.Tensor
    """Of the whole gradient before clipping; where it or a loss is not finite there was no
    update."""


class Step:
    """Network, optimizers and the way to compute: all that turns ids into an update."""

    def __init__(self, child: Child, table: TrainTable) -> None:
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
        self.choose(usual_choices(child.shape, table, hardware.device))

    def choose(self, choices: Choices) -> None:
        """Compute like this from now on."""
        self.choices = choices
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
            losses_B = torch.cat([block_losses(self.network, *piece) for piece in pieces])
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
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Add the gradient of the mean loss to the parameters'; returns the losses (B,)."""
        losses = []
        for ids, places in self._pieces(ids_BT1, place_BT):
            whole = len(ids) == self.choices.micro_blocks
            loss = self._compiled if self._compiled and whole else self._loss
            total, losses_B = loss(ids, places)
            (total / len(ids_BT1)).backward()  # type: ignore[no-untyped-call]  # torch: no types
            losses.append(losses_B)
        return torch.cat(losses)

    def clear(self) -> None:
        """Forget all gradients."""
        self.network.zero_grad(set_to_none=True)

    def update(
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None = None, *, rate: float
    ) -> Outcome:
        """One update at this rate; none if a loss or the gradient is not finite."""
        losses_B = self.gradients(ids_BT1, place_BT)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        finite = torch.isfinite(losses_B).all() & torch.isfinite(norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as AMP does
            optimizer.step()
        self.clear()
        return Outcome(losses_B, norm)

    def _pieces(
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Micro-batches of ids and, where there are any, of places."""
        for start in range(0, len(ids_BT1), self.choices.micro_blocks):
            piece = slice(start, start + self.choices.micro_blocks)
            yield ids_BT1[piece], None if place_BT is None else place_BT[piece]

    def _loss(
        self, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with self._arithmetic():
            chunked = self.choices.cross_entropy == "chunked"
            return summed_loss(self.network, ids_BT1, place_BT, chunked=chunked)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)
