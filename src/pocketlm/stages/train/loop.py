"""The loop: one round after another over numbered blocks, resumable to the bit.

A step is `batch of blocks -> loss of each block -> update`. The order is a keyed permutation, so
position p of round r is the same block on every machine and after every kill. The ledger is one
slot a block, written by number, so repeating a step after a resume changes nothing.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pocketlm.corpus.blocks import Blocks, IntArray, shuffled
from pocketlm.errors import Interrupted, StageError
from pocketlm.hardware import resolve_hardware
from pocketlm.method import pick
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses
from pocketlm.progress import Progress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.checkpoint import Checkpoint, load_newest, save_checkpoint
from pocketlm.stages.train.optim import adamw, optimizer_tensors, restore_optimizer
from pocketlm.stages.train.resample import RESAMPLERS, WITHOUT_LOSSES, effective_size
from pocketlm.stages.train.schedule import SCHEDULES, default_rate
from pocketlm.stages.train.signals import stop_requested

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = np.ndarray[Any, np.dtype[np.float32]]
BitsPerByte = Callable[["PreTrainedModel"], float]

_MAX_SKIPPED = 20
_LOG_ROWS = 400


class Learner:
    """A child being trained: network, optimizer, ledger, and where it stands."""

    def __init__(
        self,
        child: Child,
        blocks: Blocks,
        table: TrainTable,
        round_sizes: list[int],
        bits_per_byte: BitsPerByte | None = None,
    ) -> None:
        hardware = resolve_hardware(table.dtype)
        self._device = torch.device(hardware.device)
        self._dtype = getattr(torch, hardware.dtype)
        # On CPU plain matmuls beat the fused kernel at these lengths, in training only.
        attention = "eager" if hardware.device == "cpu" and blocks.seq_len <= 512 else "sdpa"
        self._network = child.network(attention=attention).to(self._device).train()
        self._config = child.config
        self._blocks, self._table, self._bits_per_byte = blocks, table, bits_per_byte
        self._batch_size = table.batch_tokens // table.seq_len
        steps = [math.ceil(size / self._batch_size) for size in round_sizes]
        self._first_step = [sum(steps[:r]) for r in range(len(steps) + 1)]
        self._log_every = max(1, sum(steps) // _LOG_ROWS)
        self._share_at = {round(share * sum(steps)): share for share in table.check_at}
        num_params = sum(p.numel() for p in self._network.parameters())
        self._peak_rate = table.learning_rate or default_rate(
            num_params, sum(round_sizes) * table.seq_len
        )
        self._decay = pick(SCHEDULES, table.schedule, "[train] schedule")
        self._draw = pick(RESAMPLERS, table.resample, "[train] resample")
        self._optimizer = adamw(self._network, weight_decay=table.weight_decay)
        self._checkpoints: Path | None = None
        self._scores_by_round: dict[int, Scores] = {}
        self._step, self._tokens = 0, 0
        self._seconds = 0.0
        self._pending: list[tuple[float, float]] = []  # loss and norm of steps not yet in the log
        self.num_skipped = 0
        self.passed_over: tuple[str, ...] = ()
        self.effective_sizes: list[float] = []
        self.ledger_N = np.full(len(blocks), np.nan, np.float32)
        self.log: list[dict[str, float]] = []
        self.checks: list[dict[str, float]] = []

    def resume(self, checkpoints: Path | None) -> None:
        """Continue from the newest intact checkpoint under `checkpoints`, if there is one."""
        self._checkpoints = checkpoints
        if checkpoints is None:
            return
        found, self.passed_over = load_newest(checkpoints)
        if found is None:
            return
        tensors, state = dict(found.tensors), found.state
        self.ledger_N = tensors.pop("ledger").numpy()
        for name in [name for name in tensors if name.startswith("scores.")]:
            self._scores_by_round[int(name.removeprefix("scores."))] = tensors.pop(name).numpy()
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors.pop(f"model.{name}"))
        restore_optimizer(self._optimizer, self._network, tensors, state["step"] - state["skipped"])
        self._step, self._tokens = state["step"], state["tokens"]
        self._seconds, self.log, self.checks = state["seconds"], state["log"], state["checks"]
        self.num_skipped, self._pending = state["skipped"], [tuple(p) for p in state["pending"]]
        # Sums depend on how work is divided: as many threads as before, or the bits differ.
        torch.set_num_threads(state["threads"])

    def run_round(self, number: int, chosen_K: IntArray, *, key: int, progress: Progress) -> None:
        """Train once on the chosen blocks, in the keyed order of this round."""
        first, last = self._first_step[number], self._first_step[number + 1]
        saved = time.monotonic()
        label = f"train, round {number + 1} of {self._table.rounds}"
        with progress.task(label, last - first, "step") as advance, stop_requested() as stop:
            advance(max(0, min(self._step, last) - first))
            if self._step == 0:
                self._check()
            while self._step < last:
                begun = time.monotonic()
                position_B = np.arange(
                    (self._step - first) * self._batch_size,
                    min((self._step - first + 1) * self._batch_size, chosen_K.size),
                )
                block_B = chosen_K[shuffled(position_B, size=chosen_K.size, key=key)]
                self._pending.append(self._update(block_B))
                self._step += 1
                self._tokens += block_B.size * self._table.seq_len
                self._seconds += time.monotonic() - begun
                if self._step % self._log_every == 0 or self._step == last:
                    self._write_row(number)
                self._check()
                advance(1, f"loss {self.log[-1].get('loss', math.nan):.3f}" if self.log else "")
                due = time.monotonic() - saved > self._table.checkpoint_seconds
                if stop() or due or self._step == last:
                    self._save()
                    saved = time.monotonic()
                if stop():
                    raise Interrupted(f"stopped at step {self._step}; the same command resumes")

    def hard_blocks(
        self, number: int, num_drawn: int, *, rng: np.random.Generator, progress: Progress
    ) -> IntArray:
        """Blocks for round `number`, drawn by the recipe's method from the child's losses."""
        loss_N = np.zeros(len(self._blocks), np.float32)
        if self._table.resample not in WITHOUT_LOSSES:
            loss_N = self.score(number, progress) / np.float32(self._table.temperature)
            self.effective_sizes.append(effective_size(loss_N))
        return self._draw(loss_N, num_drawn=num_drawn, rng=rng)

    def score(self, number: int, progress: Progress) -> Scores:
        """Loss of every block under the child as it stands before round `number` (frozen)."""
        if number in self._scores_by_round:  # resumed: the weights have moved on since
            return self._scores_by_round[number]
        scores_N, started = np.empty(len(self._blocks), np.float32), time.monotonic()
        self._network.eval()
        with (
            progress.task("score blocks", len(self._blocks), "block") as advance,
            torch.inference_mode(),
        ):
            for start in range(0, len(self._blocks), 2 * self._batch_size):
                block_B = np.arange(start, min(start + 2 * self._batch_size, len(self._blocks)))
                scores_N[block_B] = self._losses(block_B).cpu().numpy()
                advance(block_B.size)
        self._network.train()
        if not np.isfinite(scores_N).all():
            raise StageError(f"the child's loss is not finite on {(~np.isfinite(scores_N)).sum()} "
                             "blocks after a round; lower learning_rate")  # fmt: skip
        self._scores_by_round[number] = scores_N
        self._seconds += time.monotonic() - started
        self._save()
        return scores_N

    def child(self) -> Child:
        """The weights as they are now."""
        tensors = {
            name: parameter.detach().cpu().clone()
            for name, parameter in self._network.named_parameters()
        }
        return Child(config=self._config, tensors=tensors)

    def _update(self, block_B: IntArray) -> tuple[float, float]:
        """One optimizer step; returns mean loss and gradient norm, NaN if the step was skipped."""
        rate = self._peak_rate * self._rate_share()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        losses_B = self._losses(block_B)
        loss = losses_B.mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._table.clip)
        loss_value, norm_value = loss.item(), norm.item()
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            self._optimizer.step()
            self.ledger_N[block_B] = losses_B.detach().cpu().numpy()
        else:
            self.num_skipped += 1
            if self.num_skipped > _MAX_SKIPPED:
                raise StageError(
                    f"step {self._step}: loss {loss_value} for the {self.num_skipped}th time "
                    f"(blocks {block_B[:4].tolist()}...); lower learning_rate"
                )
        self._optimizer.zero_grad(set_to_none=True)
        return loss_value, norm_value

    def _losses(self, block_B: IntArray) -> torch.Tensor:
        ids_BT1 = torch.from_numpy(self._blocks.batch(block_B)).to(self._device)
        place_BT = None
        if self._table.document_mask:
            place_BT = torch.from_numpy(self._blocks.positions(block_B)).to(self._device)
        with torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=self._dtype is torch.bfloat16
        ):
            return block_losses(self._network, ids_BT1, place_BT)

    def _rate_share(self) -> float:
        total = self._first_step[-1]
        warmup = max(1, round(self._table.warmup_fraction * total))
        if self._step < warmup:
            return (self._step + 1) / warmup
        return float(self._decay((self._step - warmup) / max(1, total - warmup)))

    def _write_row(self, number: int) -> None:
        """Means of the finite steps since the last row; where there is none, no loss is written."""
        losses, norms = np.array(self._pending).T
        finite = np.isfinite(losses) & np.isfinite(norms)
        row: dict[str, float] = {
            "step": self._step,
            "round": number + 1,
            "tokens": self._tokens,
            "rate": self._optimizer.param_groups[0]["lr"],
            "seconds": round(self._seconds, 3),
        }
        if finite.any():
            row["loss"] = float(losses[finite].mean())
            row["grad_norm"] = float(norms[finite].max())
        self.log.append(row)
        self._pending = []

    def _check(self) -> None:
        """Bits per byte as the child stands, where the recipe asks for it at this step."""
        seen = {row["step"] for row in self.checks}
        if self._bits_per_byte is None or self._step not in self._share_at.keys() - seen:
            return
        self._network.eval()
        bits = self._bits_per_byte(self._network)
        self._network.train()
        share = self._share_at[self._step]
        row = {"share": share, "step": self._step, "tokens": self._tokens, "bits_per_byte": bits}
        self.checks.append(row)

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        tensors = {f"model.{n}": p.detach().cpu() for n, p in self._network.named_parameters()}
        tensors |= optimizer_tensors(self._optimizer, self._network)
        tensors["ledger"] = torch.from_numpy(self.ledger_N)
        for number, scores_N in self._scores_by_round.items():
            tensors[f"scores.{number}"] = torch.from_numpy(scores_N)
        state = {
            "step": self._step,
            "tokens": self._tokens,
            "seconds": self._seconds,
            "skipped": self.num_skipped,
            "log": self.log,
            "checks": self.checks,
            "pending": self._pending,
            "threads": torch.get_num_threads(),
        }
        save_checkpoint(self._checkpoints, self._step, Checkpoint(tensors, state))
