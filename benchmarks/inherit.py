"""Stage 3: memory and time of a cut from files to files, against a plain read of the parent's.

A parent of Llama-2-7B's shape (random bfloat16 in shards, written here and removed) becomes a child
of the 1B Pro shape of recipes/paper, every token kept; `--quick` halves a parent of 1.1B. `cut`
draws its units at random, `l2` scores every kept tensor first. Cold: the files are dropped from the
page cache before each read and each cut; warm (not in `--quick`): right after another read.
`peak_over_child_mb` and `time_over_read` are the larger of both arms, cold. CPU seconds stand
beside the seconds, since those swing with whatever else a machine does.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from _form import Numbers, main
from pocketlm.model.cost import count_params
from pocketlm.model.family import tensors_of
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config
from pocketlm.model.weight_files import StoredTensor, write_weights

PARENT = Shape(
    family="llama", vocab_size=32_000, layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128,
    ffn=11_008, tied=False,
)  # fmt: skip
CHILD = replace(PARENT, layers=21, hidden=1792, heads=14, kv_heads=14, ffn=4992)
SMALL_PARENT = replace(PARENT, layers=22, hidden=2048, heads=16, kv_heads=16, ffn=5632)
SMALL_CHILD = replace(SMALL_PARENT, layers=14, hidden=1024, heads=8, kv_heads=8, ffn=2816)
SHARD_BYTES = 10**10  # as Llama-2-7B is cut
CHUNK = 1 << 26
ARMS = {"cut": "random", "l2": "l2"}


def measure(quick: bool) -> Numbers:
    """Seconds, ratios and peak memory of both arms."""
    parent, child = (SMALL_PARENT, SMALL_CHILD) if quick else (PARENT, CHILD)
    with tempfile.TemporaryDirectory(prefix="pocketlm-inherit-") as scratch:
        folder = Path(scratch)
        _check_disk(folder, parent, child)
        _write_parent(parent, folder / "parent")
        (folder / "shape.json").write_text(json.dumps(asdict(child)))
        numbers: Numbers = {"parent_mb": 2 * count_params(parent) / 1e6}
        for state in ("cold",) if quick else ("cold", "warm"):
            reads = []
            for arm, neurons in ARMS.items():
                reads.append(_read(folder / "parent", cold=state == "cold"))
                if state == "cold":
                    _forget(folder / "parent")
                once = _cut(folder, neurons)
                numbers |= {f"{arm}_{state}_{name}": value for name, value in once.items()}
            best = min(reads)
            numbers |= {f"read_{state}_s": best[0], f"read_{state}_cpu_s": best[1]}
            for arm in ARMS:
                numbers[f"{arm}_{state}_over_read"] = numbers[f"{arm}_{state}_total_s"] / best[0]
                cpu = numbers[f"{arm}_{state}_cpu_s"]
                numbers[f"{arm}_{state}_cpu_over_read"] = cpu / best[1]
        numbers["child_mb"] = 2 * count_params(child) / 1e6
    peak = max(numbers[f"{arm}_cold_peak_mb"] for arm in ARMS)
    numbers["peak_over_child_mb"] = peak - numbers["child_mb"]
    numbers["time_over_read"] = max(numbers[f"{arm}_cold_over_read"] for arm in ARMS)
    return numbers


def _check_disk(folder: Path, parent: Shape, child: Shape) -> None:
    need = 2 * (count_params(parent) + count_params(child)) + 10**9
    free = shutil.disk_usage(folder).free
    if free < need:
        sys.exit(
            f"{folder}: needs {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; set TMPDIR"
        )


def _write_parent(shape: Shape, folder: Path) -> None:
    folder.mkdir()
    config = base_config(shape, max_positions=4096, bos_id=1, eos_id=2)
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)

    def chunks_of(tensor: StoredTensor) -> Iterator[bytes]:
        for start in range(0, tensor.num_bytes, CHUNK):
            count = min(CHUNK, tensor.num_bytes - start) // 2
            bits = rng.integers(0, 2**16, count, dtype=np.uint16)
            # Sign, two bits of exponent and the mantissa are random: sizes of 2^-7 to 2^-3.
            yield ((bits & 0x81FF) | 0x3C00).tobytes()

    layers = [placed for placed in tensors_of(shape) if placed.layer is not None]
    embedding, *others = [placed for placed in tensors_of(shape) if placed.layer is None]
    entries = [
        StoredTensor(
            name=placed.name,
            dtype="BF16",
            dims=placed.dims,
            offset=0,
            num_bytes=2 * int(np.prod(placed.dims)),
        )
        for placed in (embedding, *layers, *others)
    ]
    write_weights(folder, {"format": "pt"}, entries, chunks_of, shard_bytes=SHARD_BYTES)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what the disk has can leave the page cache


def _forget(folder: Path) -> None:
    """Drop the files from the page cache; allowed to anybody, of clean pages."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(folder: Path, *, cold: bool) -> tuple[float, float]:
    """Seconds, and CPU seconds, to read every byte once, in order, into one buffer."""
    if cold:
        _forget(folder)
    buffer = bytearray(8 << 20)
    started, cpu = time.monotonic(), time.process_time()
    for path in sorted(folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.monotonic() - started, time.process_time() - cpu


def _cut(folder: Path, neurons: str) -> Numbers:
    script = Path(__file__).with_name("_inherit_once.py")
    arguments = [folder / "parent", folder / "child", folder / "shape.json", neurons]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    shutil.rmtree(folder / "child")
    numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
    return numbers


if __name__ == "__main__":
    main(measure)
