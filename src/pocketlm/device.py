"""Device profiles: what a machine holds, how fast it reads, how fast it computes.

Profiles are TOML files in devices/, one real device each, every number with its source. The machine
pocketlm runs on has no file: `this-machine` is measured when it is asked for.
"""

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pocketlm.errors import RecipeError, did_you_mean
from pocketlm.tables import Table, load_table
from pocketlm.units import MIB

THIS_MACHINE = "this-machine"

_FOLDER = Path(__file__).parent / "devices"
_MEASURE_SECONDS = 1.0
_COPY_BYTES = 128 * MIB  # read and written once each: well beyond the last cache of a laptop
_MATMUL_WIDTH = 1536

Quantity = Literal[
    "cores", "memory_bytes", "usable_memory_bytes", "memory_bandwidth", "fp32", "fp16", "int8"
]


class Compute(Table):
    """Arithmetic of all cores together, multiply and add counted as two, FLOP/s or OP/s."""

    fp32: float = Field(gt=0)
    """float32 matrix products."""
    fp16: float | None = Field(default=None, gt=0)
    """16-bit floats, float16 or bfloat16, whichever is faster. Default: not known."""
    int8: float | None = Field(default=None, gt=0)
    """8-bit integer dot products. Default: not known."""


class Source(Table):
    """Where numbers of a profile come from."""

    of: tuple[Quantity, ...]
    """The quantities this source stands for."""
    how: Literal["datasheet", "review", "derived", "measured", "estimate"]
    """`datasheet`: the vendor says so; `review`: a page by others does; `derived`: arithmetic on
    such numbers, written out in `text`; `measured`: here; `estimate`: ours."""
    text: str
    """Title of the page or the arithmetic."""


class Device(Table):
    """One device, in the numbers that decide the size and speed of a child."""

    name: str
    """Name of the file in devices/."""
    kind: Literal["phone", "board", "laptop", "machine"]
    """What sort of thing it is."""
    model: str
    """The real device behind the profile, with its chip and memory."""
    year: int | None = Field(default=None, ge=2000)
    """Year it was sold first. Default: not known."""
    cores: int = Field(ge=1)
    """CPU cores a runtime can use."""
    memory_bytes: int = Field(ge=1)
    """Memory fitted."""
    usable_memory_bytes: int = Field(ge=1)
    """Memory one model may take: weights, cache and activations together."""
    memory_bandwidth: float = Field(gt=0)
    """Bytes per second between memory and CPU. Published ones are peaks: see `note`."""
    compute: Compute
    """Arithmetic rates."""
    note: str = ""
    """What to know before trusting the numbers."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where each number comes from, and how sure it is."""


def list_devices() -> tuple[str, ...]:
    """Names `load_device` takes: the profiles in alphabetical order, then `this-machine`."""
    return (*sorted(path.stem for path in _FOLDER.glob("*.toml")), THIS_MACHINE)


def load_device(name: str) -> Device:
    """The profile called `name`; raises `RecipeError` with the nearest name.

    `this-machine` is measured on the first call of the process (about a second) and remembered.
    """
    if name == THIS_MACHINE:
        return _this_machine_once()
    if name not in list_devices():
        raise RecipeError(
            f"device = {name!r}: no such device; {did_you_mean(name, list_devices())}"
        )
    return load_table(Device, _FOLDER / f"{name}.toml")


def predict_decode_tokens_per_s(device: Device, weight_bytes: int) -> float:
    """Upper bound of tokens per second when one token is made at a time.

    Roofline (Williams et al. 2009): each token reads every weight once, so no runtime is faster
    than bandwidth / weight bytes unless the weights stay in a cache. Traffic for keys, values and
    activations is left out, and few machines sustain their peak, so expect less.
    """
    return device.memory_bandwidth / weight_bytes


def measure_this_machine(seconds: float = _MEASURE_SECONDS) -> Device:
    """Measure bandwidth and float32 rate here, in about `seconds`; torch is not needed."""
    cores, memory = available_cores(), memory_bytes()
    return Device(
        name=THIS_MACHINE,
        kind="machine",
        model=f"the machine pocketlm runs on, {cores} cores",
        cores=cores,
        memory_bytes=memory,
        usable_memory_bytes=memory // 2,
        memory_bandwidth=_copy_bytes_per_s(cores, seconds / 2),
        compute=Compute(fp32=_matmul_flops(seconds / 2)),
        note="Measured while other work may run; a second measurement differs by some per cent.",
        sources=(
            Source(of=("cores", "memory_bytes"), how="measured", text="the operating system"),
            Source(of=("usable_memory_bytes",), how="estimate", text="half of the memory"),
            Source(
                of=("memory_bandwidth",),
                how="measured",
                text=f"STREAM copy (McCalpin 1995) of {_COPY_BYTES // MIB} MiB, read plus written",
            ),
            Source(
                of=("fp32",), how="measured", text=f"numpy matmul, {_MATMUL_WIDTH} cubed, all cores"
            ),
        ),
    )


def available_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its control group's if that is less."""
    fitted = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # Linux control groups, version 2
    text = limit.read_text().strip() if limit.exists() else "max"
    return fitted if text == "max" else min(fitted, int(text))


@functools.cache
def _this_machine_once() -> Device:
    return measure_this_machine()


def _copy_bytes_per_s(cores: int, seconds: float) -> float:
    """Bytes read plus written per second by one copying thread per core."""
    source = np.ones(_COPY_BYTES, dtype=np.uint8)
    target = np.ones_like(source)
    sources, targets = np.array_split(source, cores), np.array_split(target, cores)
    with ThreadPoolExecutor(cores) as pool:  # numpy copies without holding the interpreter's lock
        best = _best_seconds(lambda: list(pool.map(np.copyto, targets, sources)), seconds)
    return 2 * _COPY_BYTES / best


def _matmul_flops(seconds: float) -> float:
    """float32 FLOP per second of a square matrix product."""
    ones = np.ones((_MATMUL_WIDTH, _MATMUL_WIDTH), dtype=np.float32)
    product = np.empty_like(ones)
    best = _best_seconds(lambda: np.matmul(ones, ones, out=product), seconds)
    return float(2 * _MATMUL_WIDTH**3 / best)


def _best_seconds(work: Callable[[], object], seconds: float) -> float:
    """Shortest time `work` took, run again for `seconds` and at least three times.

    The shortest, because other programs only ever make a run longer; the first one warms up.
    """
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
