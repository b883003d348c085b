"""What this machine computes with, found out without importing torch.

These choices change numbers in the last digits, so they are part of a trained artifact's key.
"""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pocketlm.units import GIB

# Read by libraries as the process starts, so the command line starts itself again with them.
PROCESS_SETTINGS = {
    # glibc gives every large tensor back to the system and faults its pages in again: 1.3 x a step.
    "MALLOC_MMAP_THRESHOLD_": str(4 * GIB),
    "MALLOC_TRIM_THRESHOLD_": str(4 * GIB),
    "MALLOC_TOP_PAD_": str(GIB),
    # Waiting OpenMP threads spin for long by default, which on a busy machine makes two slower than
    # one; 2,000 turns are about as fast as that when idle and as patient as none when busy.
    "GOMP_SPINCOUNT": "2000",
}


@dataclass(frozen=True)
class Hardware:
    """Where tensors live and the arithmetic of a training step."""

    device: str
    """`cpu` or `cuda`, as torch names them."""
    dtype: str
    """`float32` or `bfloat16`; weights are float32 in either case."""


@dataclass(frozen=True)
class Ranks:
    """The processes that torchrun started to work as one, and which of them this is."""

    number: int = 0
    """Of this process, from 0."""
    count: int = 1
    number_here: int = 0
    """The same among those of this machine: its GPU."""
    count_here: int = 1
    """Those of this machine, which share its memory."""


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun says in the environment; without it this process is alone."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Ranks()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(environment[name]) for name in names))


def restart_with(settings: Mapping[str, str]) -> None:
    """Start this process again with `settings` in its environment, which libraries read once.

    Only on Linux with glibc, and only where none of them is set already.
    """
    if platform.libc_ver()[0] == "glibc" and not settings.keys() & os.environ.keys():
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **settings})


def resolve_hardware(dtype: str = "auto") -> Hardware:
    """This machine's device and, for `auto`, bfloat16 where it is computed in hardware."""
    device = "cuda" if has_cuda() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" or has_bfloat16_cpu() else "float32"
    return Hardware(device, dtype)


def has_cuda() -> bool:
    """True where an NVIDIA driver is loaded, not hidden, and torch is a CUDA build."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        cuda_build = not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        cuda_build = False
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return cuda_build and not hidden and Path("/dev/nvidiactl").exists()


def has_bfloat16_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True where the processor multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
