"""The loop: one round after another over numbered blocks, resumable to the bit.

A step is `batch of blocks -> loss of each block -> update`. The order is a keyed permutation, so
position p of round r is the same block on every machine and after every kill.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.errors import Interrupted
from pocketlm.method import pick
from pocketlm.model.child import Child
from pocketlm.progress import Progress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.automatic import Choices, try_choices
from pocketlm.stages.train.checkpoint import load_newest
from pocketlm.stages.train.choice import Choice
from pocketlm.stages.train.distil import Lessons
from pocketlm.stages.train.distributed import Team
from pocketlm.stages.train.journal import Journal
from pocketlm.stages.train.reader import Reader
from pocketlm.stages.train.resample import References
from pocketlm.stages.train.rounds import Round
from pocketlm.stages.train.schedule import ROUND_SCHEDULES, SCHEDULES, peak_rate, rate_share
from pocketlm.stages.train.signals import stop_requested
from pocketlm.stages.train.standing import Keeper, learned, put_back
from pocketlm.stages.train.step import Outcome, Step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Losses = np.ndarray[Any, np.dtype[np.float32]]
BitsPerByte = Callable[["PreTrainedModel"], float]

_LOG_ROWS = 400
_FETCH_EVERY = {"cpu": 1, "cuda": 64}  # steps: reading a result makes a GPU's queue run dry


class Learner:
    """A child being trained: network, optimizer, ledger, and where it stands."""

    def __init__(
        self,
        child: Child,
        blocks: Blocks,
        table: TrainTable,
        round_sizes: list[int],
        bits_per_byte: BitsPerByte | None = None,
        references: References | None = None,
    ) -> None:
        self._team = Team.current()
        self._compute = Step(child, table, self._team)
        self._network = self._compute.network
        self._reader = Reader(blocks, self._compute.device, places=table.document_mask)
        self._config = child.config
        self._blocks, self._table, self._bits_per_byte = blocks, table, bits_per_byte
        self._batch_size = table.batch_tokens // table.seq_len
        steps = [math.ceil(size / self._batch_size) for size in round_sizes]
        self._first_step = [sum(steps[:r]) for r in range(len(steps) + 1)]
        self._log_every = max(1, sum(steps) // _LOG_ROWS)
        self._share_at = {round(share * sum(steps)): share for share in table.check_at}
        num_params = sum(p.numel() for p in self._network.parameters())
        self._peak_rate = peak_rate(table, num_params, sum(round_sizes) * table.seq_len)
        self._decay = pick(SCHEDULES, table.schedule, "[train] schedule")
        self._span = pick(ROUND_SCHEDULES, table.round_schedule, "[train] round_schedule")
        references = references or References()
        self._lessons = Lessons(table, references.teacher, sum(steps))
        self.choice = Choice(blocks, table, references, self._frozen_losses)
        self._keeper = Keeper(self._team, table.checkpoint_seconds)
        self._step, self._tokens = 0, 0
        self._seconds = self._rate = 0.0
        self._unread: list[tuple[int, IntArray, Outcome]] = []  # steps still on the device
        self.passed_over: tuple[str, ...] = ()
        self.journal = Journal()

    def resume(self, checkpoints: Path | None) -> None:
        """Continue from the newest intact checkpoint under `checkpoints`, or begin."""
        self._keeper.folder, found = checkpoints, None
        if checkpoints is not None:
            found, self.passed_over = load_newest(checkpoints)
        self._team.check_same_step(found.state["step"] if found else 0)
        if found is None:
            self._try()
            return
        tensors, state = dict(found.tensors), found.state
        self.choice.restore(tensors, state)
        self.journal.restore(state)
        put_back(self._compute, tensors, state["step"] - len(self.journal.skipped))
        self._compute.choose(Choices(**state["choices"]))
        self._step, self._tokens = state["step"], state["tokens"]
        self._seconds = state["seconds"]
        # Sums depend on how work is divided: as many threads as before, or the bits differ.
        if state["ranks"] == self._team.size:
            torch.set_num_threads(state["threads"])

    def run_round(
        self, number: int, chosen_K: IntArray | None, *, key: int, progress: Progress
    ) -> None:
        """Train once on the chosen blocks (None: on all), in the keyed order of this round."""
        first, last = self._first_step[number], self._first_step[number + 1]
        size = len(self._blocks) if chosen_K is None else chosen_K.size
        this = Round(
            size=size, key=key, first_step=first, batch_size=self._batch_size, chosen_K=chosen_K
        )
        self.choice.begin(this, self._first_step)
        label = f"train, round {number + 1} of {self._table.rounds}"
        with progress.task(label, last - first, "step") as advance, stop_requested() as stop:
            advance(max(0, min(self._step, last) - first))
            if self._step == 0:
                self._check()
                self._probe()
            while self._step < last:
                begun = time.monotonic()
                block_B = this.batch(self._step)
                self._update(block_B)
                self._step += 1
                if self._step < last:
                    self._reader.expect(self._own(this.batch(self._step)))
                self._tokens += block_B.size * self._table.seq_len
                self._seconds += time.monotonic() - begun
                if self._step % self._log_every == 0 or self._step == last:
                    self._write_row(number)
                self._check()
                self._probe()
                advance(1, self.journal.latest_loss())
                stopped, due = self._team.any(stop(), self._keeper.is_due())
                if stopped or due or self._step == last:
                    self._save()
                if stopped:
                    raise Interrupted(f"stopped at step {self._step}; the same command resumes")
            self._obey(stop)

    def hard_blocks(self, number: int, *, key: int, progress: Progress) -> IntArray:
        """Blocks for round `number`, drawn by the recipe's method; a pass to score them resumes."""
        if not self.choice.is_drawn(number):
            before, begun = self._seconds, time.monotonic()
            with stop_requested() as stop:

                def pause() -> None:
                    self._seconds = before + time.monotonic() - begun
                    stopped, due = self._team.any(stop(), self._keeper.is_due())
                    if stopped or due:
                        self._save()
                    if stopped:
                        raise Interrupted("stopped while scoring; the same command resumes")

                self._fetch()  # the ledger needs the last steps
                self.choice.draw(number, key=key, progress=progress, pause=pause)
                self._seconds = before + time.monotonic() - begun
                self._save()
                self._obey(stop)
        block_K: IntArray = self.choice.blocks(number)
        return block_K

    def child(self) -> Child:
        """The weights as they are now."""
        tensors = {
            name: parameter.detach().cpu().clone()
            for name, parameter in self._network.named_parameters()
        }
        return Child(config=self._config, tensors=tensors)

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    @property
    def choices(self) -> Choices:
        """What was decided by itself, or taken from the checkpoint."""
        return self._compute.choices

    def _try(self) -> None:
        """Choose by trying, where the run is long enough for it to pay."""
        batch = self._reader.take(self._own(np.arange(min(self._batch_size, len(self._blocks)))))

        def once(choices: Choices) -> None:
            self._compute.choose(choices)
            self._compute.gradients(*batch)
            self._compute.clear()

        chosen, device = self.choices, self._compute.device.type
        if self._team.rank == 0:
            left = self._first_step[-1]
            chosen = try_choices(chosen, self._table, step=once, steps_left=left, device=device)
        self._compute.choose(self._team.of_first(chosen))

    def _own(self, block_B: IntArray) -> IntArray:
        """This process's part of a step; where nothing is left for it, a block that will weigh
        nothing."""
        part_P = self._team.part(block_B)
        return part_P if part_P.size else block_B[:1]

    def _obey(self, stop: Callable[[], bool]) -> None:
        """A signal that came during the last save: the next part would not hear of it."""
        if any(self._team.any(stop())):
            raise Interrupted(f"stopped after step {self._step}; the same command resumes")

    def _update(self, block_B: IntArray) -> None:
        """One optimizer step; its results are read every few steps."""
        self._rate = self._peak_rate * self._rate_share()
        own_P = self._own(block_B)
        outcome = self._compute.update(
            *self._reader.take(own_P),
            num_blocks=block_B.size,
            rate=self._rate,
            lesson=self._lessons.at(self._step, own_P),
        )
        self._unread.append((self._step, block_B, outcome))
        if len(self._unread) >= _FETCH_EVERY[self._compute.device.type]:
            self._fetch()

    def _fetch(self) -> None:
        """Read the results of the last steps: ledger and log, and whether any was skipped."""
        unread, self._unread = self._unread, []
        for step, block_B, outcome in unread:
            losses_B = outcome.losses_B.cpu().numpy()
            if self.journal.add(step, block_B, losses_B, outcome.norm.item()):
                self.choice.ledger_N[block_B] = losses_B

    def _frozen_losses(self, blocks: Blocks, block_B: IntArray) -> Losses:
        """Losses of blocks under the child as it stands, shape (B,)."""
        found_B: Losses = self._compute.losses(*self._reader.read(blocks, block_B)).cpu().numpy()
        return found_B

    def _rate_share(self) -> float:
        span = self._span(self._first_step, self._step)
        warmup = self._table.warmup_fraction
        return rate_share(self._step, span, warmup_fraction=warmup, decay=self._decay)

    def _write_row(self, number: int) -> None:
        self._fetch()
        self.journal.write_row(
            {
                "step": self._step,
                "round": number + 1,
                "tokens": self._tokens,
                "rate": self._rate,
                "seconds": round(self._seconds, 3),
            }
        )

    def _check(self) -> None:
        """Bits per byte as the child stands, where the recipe asks for it at this step; the best
        child so far is saved."""
        seen = {row["step"] for row in self.journal.checks}
        if self._bits_per_byte is None or self._step not in self._share_at.keys() - seen:
            return
        bits = 0.0
        if self._team.rank == 0:
            with self._compute.scoring() as network:
                bits = self._bits_per_byte(network)
        share, bits = self._share_at[self._step], self._team.of_first(bits)
        row = {"share": share, "step": self._step, "tokens": self._tokens, "bits_per_byte": bits}
        self.journal.check(row)
        if self.journal.best_step == self._step:
            self._save()

    def _probe(self) -> None:
        begun = time.monotonic()
        self.choice.probe(self._step, self._tokens)
        self._seconds += time.monotonic() - begun

    def _save(self) -> None:
        """All that a resume needs."""
        self._fetch()
        state = {
            "step": self._step,
            "tokens": self._tokens,
            "seconds": self._seconds,
            "choices": self.choices.as_dict(),
            "threads": torch.get_num_threads(),
            "ranks": self._team.size,
            **self.journal.state(),
            **self.choice.state(),
        }
        tensors = learned(self._compute) | self.choice.tensors()
        self._keeper.save(tensors, state, best_step=self.journal.best_step)
