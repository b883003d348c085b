"""What a run writes down as it goes: rows of the log, checks, and the steps it left out."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import IntArray
from pocketlm.errors import StageError

Losses = np.ndarray[Any, np.dtype[np.float32]]

_MAX_SKIPPED = 20


def best_of(checks: Iterable[Mapping[str, float]]) -> int | None:
    """The step with the fewest bits per byte; None where nobody looked. Not the first: that is the
    child as it was given."""
    rows = [row for row in checks if row["step"]]
    return int(min(rows, key=lambda row: row["bits_per_byte"])["step"]) if rows else None


class Journal:
    """Rows of the log, made of the steps since the last row; part of every checkpoint."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.checks: list[dict[str, float]] = []
        self.skipped: list[dict[str, Any]] = []
        self.undone: list[dict[str, Any]] = []
        self._pending: list[tuple[float, float]] = []  # loss and norm of steps not yet in the log

    def add(self, step: int, block_B: IntArray, losses_B: Losses, norm: float) -> bool:
        """Take in what a step found; whether all of it is finite, so that the step counted.

        Raises `StageError` for one step too many that did not, with the numbers of its blocks.
        """
        loss = float(losses_B.mean())
        self._pending.append((loss, norm))
        if np.isfinite(losses_B).all() and math.isfinite(norm):
            return True
        self.skipped.append({"step": step, "blocks": block_B.tolist()})
        if len(self.skipped) > _MAX_SKIPPED:
            raise StageError(
                f"step {step}: loss {loss}, gradient norm {norm}: not finite for the "
                f"{len(self.skipped)}th time (blocks {block_B[:4].tolist()}...); lower "
                "learning_rate"
            )
        return False

    def write_row(self, row: Mapping[str, Any], num_bytes: int) -> dict[str, Any]:
        """Log `row` with the means of the finite steps since the last one (no loss if none was) and
        the UTF-8 bytes read so far; `num_bytes` of them since then.

        Bits per byte are the loss over the bytes of a token in just these blocks.
        """
        losses, norms = np.array(self._pending).T
        finite = np.isfinite(losses) & np.isfinite(norms)
        found = {}
        if finite.any():
            loss, before = float(losses[finite].mean()), self.last("tokens", 0)
            tokens_per_byte = (row["tokens"] - before) / max(1, num_bytes)
            found = {
                "loss": loss,
                "bits_per_byte": loss / math.log(2) * tokens_per_byte,
                "grad_norm": float(norms[finite].max()),
            }
        read = {"bytes": self.last("bytes", 0) + num_bytes}
        self.log.append({**row, **read, **found})
        self._pending = []
        return self.log[-1]

    def last(self, name: str, otherwise: Any) -> Any:
        """What the last row has under this name."""
        return self.log[-1].get(name, otherwise) if self.log else otherwise

    def num_updates(self, step: int) -> int:
        """How many of the first `step` steps are in the weights."""
        undone = {at for row in self.undone for at in range(row["step"], row["until"])}
        return step - len(undone | {row["step"] for row in self.skipped})

    def check(self, row: dict[str, float]) -> None:
        """Take in bits per byte of a step."""
        self.checks.append(row)

    @property
    def best_step(self) -> int | None:
        """That of `best_of`."""
        return best_of(self.checks)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "log": self.log,
            "checks": self.checks,
            "skipped": self.skipped,
            "undone": self.undone,
            "pending": self._pending,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.log, self.checks, self.skipped = state["log"], state["checks"], state["skipped"]
        self.undone = state.get("undone", [])
        self._pending = [(loss, norm) for loss, norm in state["pending"]]
