"""How fast a run is and how full its memory: measured for people, and read by nothing that decides.

A row of the log holds what was measured since the row before. Model FLOPs utilisation (PaLM, arXiv
2204.02311, appendix B): FLOPs that the model needs, over those that this machine's matrix products
could have done. Needed are three times the forward pass, attention counted causally, as in
model/cost.py; what activation checkpointing computes twice is not counted. Possible is what square
matrices reach here, in the step's arithmetic and on its threads, not a figure from a data sheet.
"""

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from pocketlm.hardware import Hardware
from pocketlm.model.cost import training_flops_per_token
from pocketlm.model.shape import Shape
from pocketlm.units import show_bytes, show_count

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices: large enough to be the processor's limit
_PEAK_SECONDS = 0.2
_YOUNG_SECONDS = 5.0  # of steps: a run shorter than this is not worth measuring a peak for


class Meter:
    """Adds up steps until a row is written."""

    def __init__(self, shape: Shape, seq_len: int, hardware: Hardware, num_processes: int) -> None:
        self._flops = training_flops_per_token(shape, seq_len)
        self._hardware, self._processes = hardware, num_processes
        self._peak: float | None = None
        self._tokens, self._seconds, self._age = 0, 0.0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """A step is over."""
        self._tokens += tokens
        self._seconds += seconds
        self._age += seconds

    def row(self, tokens_left: int) -> dict[str, float | None]:
        """What the steps since the last call came to; null where it is not known.

        tokens_per_s, mfu (0 to 1), memory_bytes, eta_seconds: of the steps left at this pace.
        """
        if self._peak is None and self._age >= _YOUNG_SECONDS:
            self._peak = matmul_rate(self._hardware) * self._processes
        rate = self._tokens / self._seconds if self._seconds else None
        self._tokens, self._seconds = 0, 0.0
        return {
            "tokens_per_s": rate and round(rate, 1),
            "mfu": round(rate * self._flops / self._peak, 4) if rate and self._peak else None,
            "memory_bytes": peak_memory_bytes(self._hardware.device),
            "eta_seconds": round(tokens_left / rate, 1) if rate else None,
        }


def matmul_rate(hardware: Hardware, seconds: float = _PEAK_SECONDS) -> float:
    """FLOP/s of the best of the square matrix products that fit `seconds`, two at least."""
    side = _SIDE[hardware.device]
    dtype = torch.bfloat16 if hardware.dtype == "bfloat16" else torch.float32
    square = torch.ones(side, side, dtype=dtype, device=hardware.device)
    out, begun, best = torch.empty_like(square), time.perf_counter(), float("inf")
    tries = 0
    with torch.no_grad():
        while tries < 2 or time.perf_counter() - begun < seconds:  # the first warms up
            started = time.perf_counter()
            torch.matmul(square, square, out=out)
            if hardware.device == "cuda":
                torch.cuda.synchronize()
            best, tries = min(best, time.perf_counter() - started), tries + 1
    return 2.0 * side**3 / best


def peak_memory_bytes(device: str) -> int:
    """Most memory so far: of the tensors on a GPU, else of this whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def shown(row: Mapping[str, Any]) -> str:
    """A row of the log in a few words, for the progress bar; of older versions too."""
    words = [f"loss {row['loss']:.3f}"] if "loss" in row else []
    if row.get("tokens_per_s"):
        words.append(f"{show_count(float(row['tokens_per_s']))} tok/s")
    if row.get("mfu"):
        words.append(f"MFU {row['mfu']:.0%}")
    if row.get("memory_bytes"):
        words.append(show_bytes(row["memory_bytes"]))
    return "  ".join(words)
