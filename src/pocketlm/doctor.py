"""Look this machine over: what is there, what is missing, what would make it faster.

Nothing is imported to find out (torch takes seconds): installed versions come from package
metadata, the processor's abilities from the operating system.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pocketlm.device import available_cores, memory_bytes
from pocketlm.finding import Finding
from pocketlm.hardware import PROCESS_SETTINGS, has_bfloat16_cpu, has_cuda
from pocketlm.units import GB, show_bytes

# Modules each extra of pyproject.toml brings, by distribution name.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "gguf": ("gguf", "xllamacpp"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "optuna": ("optuna",),
    "eval": ("rouge-score",),
    "track": ("tensorboard", "trackio"),
    "harness": ("lm-eval",),
    "bench": ("accelerate",),
    "dev": ("mypy", "ruff", "pytest", "hypothesis"),
}

_ENOUGH_DISK = 5 * GB


def examine() -> tuple[Finding, ...]:
    """Everything worth knowing before a run, in the order a reader wants it."""
    return (
        check_python(),
        check_torch(_version("torch")),
        check_torchvision(_version("torchvision")),
        *(check_extra(extra) for extra in EXTRAS),
        Finding("cores", "ok", str(available_cores())),
        Finding("memory", "ok", show_bytes(memory_bytes())),
        check_bfloat16(has_cuda() or has_bfloat16_cpu()),
        check_process(os.environ, sys.platform),
        check_compiler(shutil.which("g++") or shutil.which("clang++")),
        check_disk(shutil.disk_usage(Path.cwd()).free),
    )


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Python is 3.11 or newer."""
    shown = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("Python", "missing", f"{shown}; pocketlm needs 3.11 or newer")
    return Finding("Python", "ok", shown)


def check_torch(version: str | None) -> Finding:
    """torch is there, in a version the tests have seen or newer."""
    if version is None:
        return Finding("torch", "missing", "pip install -c constraints.txt torch")
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, 11):
        return Finding("torch", "missing", f"{version}; pip install 'torch>=2.11'")
    return Finding("torch", "ok", version)


def check_torchvision(version: str | None) -> Finding:
    """torchvision is not there: one built for another torch makes transformers fail to import."""
    if version is None:
        return Finding("torchvision", "ok", "absent, as it should be")
    text = f"{version} is installed and can break transformers; pip uninstall torchvision"
    return Finding("torchvision", "advice", text)


def check_extra(extra: str) -> Finding:
    """Every distribution of one extra is installed."""
    absent = [name for name in EXTRAS[extra] if _version(name) is None]
    if absent:
        text = f"{', '.join(absent)} not installed; pip install 'pocketlm[{extra}]'"
        return Finding(f"extra {extra}", "advice", text)
    return Finding(f"extra {extra}", "ok", ", ".join(EXTRAS[extra]))


def check_bfloat16(native: bool) -> Finding:
    """bfloat16 matrices are multiplied in hardware, by the processor or a GPU."""
    if native:
        return Finding("bfloat16", "ok", "in hardware")
    text = "not in hardware as far as can be seen; training computes in float32, about half as fast"
    return Finding("bfloat16", "advice", text)


def check_process(environ: Mapping[str, str], platform: str) -> Finding:
    """What libraries read as the process starts: allocator thresholds, how threads wait."""
    if platform != "linux":
        return Finding("process", "ok", "nothing to set on this system")
    unset = {name: value for name, value in PROCESS_SETTINGS.items() if name not in environ}
    if not unset:
        return Finding("process", "ok", "malloc thresholds raised, OpenMP threads spin briefly")
    line = " ".join(f"{name}={value}" for name, value in unset.items())
    return Finding("process", "advice", f"the command line sets it; for Python: export {line}")


def check_compiler(path: str | None) -> Finding:
    """A C++ compiler is there, for torch.compile."""
    if path is None:
        return Finding("C++ compiler", "advice", "no g++ or clang++; torch.compile is not possible")
    return Finding("C++ compiler", "ok", path)


def check_disk(free_bytes: int) -> Finding:
    """Room for a few runs in the current folder."""
    if free_bytes < _ENOUGH_DISK:
        text = f"{show_bytes(free_bytes)} free here; runs write more, give --out another disk"
        return Finding("disk", "advice", text)
    return Finding("disk", "ok", f"{show_bytes(free_bytes)} free here")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
