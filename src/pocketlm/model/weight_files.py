"""Safetensors files as bytes: where each tensor lies, and files written without holding a tensor.

Format: 8 bytes little-endian header length, a JSON header (name -> dtype, shape, data_offsets;
__metadata__ -> text by text), then the bytes of the tensors without gaps, in any dtype.
"""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import OutputError, ParentError
from pocketlm.units import show_bytes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CHUNK_BYTES = 8 << 20
WINDOW_VALUES = 1 << 22
SHARD_BYTES = 2 * 10**9
"""Of one file's tensors at most, where no tensor alone is larger."""

_PICKLED = (".bin", ".pt", ".pth")
_ALIGNMENT = 8
_CONVERT = (
    "from transformers import AutoModelForCausalLM as M; "
    "M.from_pretrained({old!r}, dtype='auto').save_pretrained({new!r})"
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of a file: `num_bytes` from `offset` of the file on, row by row."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file's tensors in the order of their bytes."""

    path: Path
    metadata: Mapping[str, str]
    tensors: tuple[StoredTensor, ...]


def weight_files(folder: Path) -> tuple[WeightFile, ...]:
    """The safetensors files that make up a checkpoint: one, or the shards of its index.

    Raises `ParentError` where there are none, where they are pickled, damaged or cut short, and
    where index and shards disagree.
    """
    if (folder / SINGLE).is_file():
        return (read_weight_file(folder / SINGLE),)
    if (folder / INDEX).is_file():
        return _shards(folder)
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        line = _CONVERT.format(old=str(folder), new=f"{folder}-safetensors")
        raise ParentError(
            f"{folder}: pickled checkpoints are not loaded; convert to safetensors one that you "
            f'trust: python -c "{line}", then copy the tokenizer beside it'
        )
    raise ParentError(f"{folder}: no {SINGLE} and no {INDEX}")


def read_weight_file(path: Path) -> WeightFile:
    """The header of `path`; raises `ParentError` for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # holds lengths, offsets and gaps against the file
            pass
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
    except FileNotFoundError:
        raise ParentError(f"{path}: no such file, though {INDEX} names it") from None
    except (OSError, SafetensorError) as error:
        raise ParentError(f"{path}: damaged or cut short ({error})") from None
    metadata = header.pop("__metadata__", {})
    tensors = [_stored(name, entry, 8 + header_bytes) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.num_bytes))
    return WeightFile(path=path, metadata=metadata, tensors=tuple(tensors))


def write_weight_file(
    path: Path,
    metadata: Mapping[str, str],
    tensors: Sequence[StoredTensor],
    chunks_of: Callable[[StoredTensor], Iterator[bytes | memoryview]],
) -> None:
    """Write `tensors` one after the other, whatever `chunks_of` gives for each.

    Only `num_bytes` of a tensor counts here; its offset may be that of another file.
    """
    with path.open("wb") as file:
        file.write(_header(metadata, tensors))
        for tensor in tensors:
            start = file.tell()
            for chunk in chunks_of(tensor):
                file.write(chunk)
            assert file.tell() - start == tensor.num_bytes, tensor.name


def write_weights(
    folder: Path,
    metadata: Mapping[str, str],
    tensors: Sequence[StoredTensor],
    chunks_of: Callable[[StoredTensor], Iterator[bytes | memoryview]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """One file, or shards of at most `shard_bytes` of tensors and their index, as transformers
    names them; a larger tensor has a shard of its own."""
    shards = _split(tensors, shard_bytes)
    if len(shards) == 1:
        write_weight_file(folder / SINGLE, metadata, tensors, chunks_of)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_weight_file(folder / name, metadata, shard, chunks_of)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.num_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / INDEX).write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A folder to fill with a checkpoint; its files move into `folder` when it is complete.

    They replace a checkpoint that was there. After an error everything is as before. Raises
    `OutputError` where the disk has no `num_bytes` left, at once or while they are written.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        _check_space(folder, num_bytes)
        yield work
        made = sorted(work.iterdir(), key=lambda path: path.name == "config.json")
        for old in (*folder.glob("model*.safetensors"), folder / INDEX):
            old.unlink(missing_ok=True)
        for path in made:
            os.replace(path, folder / path.name)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(work)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise OutputError(
            f"{folder}: {show_bytes(num_bytes)} of weights, but the disk has {show_bytes(free)} "
            "free; make space or give another folder"
        )


def read_chunks(path: Path, offset: int, num_bytes: int) -> Iterator[bytes]:
    """`num_bytes` of a file from `offset` on, a little at a time."""
    with path.open("rb") as file:
        file.seek(offset)
        while num_bytes:
            chunk = file.read(min(num_bytes, CHUNK_BYTES))
            if not chunk:
                raise ParentError(f"{path}: cut short while it was read")
            num_bytes -= len(chunk)
            yield chunk


def read_rows(
    path: Path, tensor: StoredTensor, rows_R: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """The rows `rows_R` of a tensor in `path`, as whole numbers of its width, window by window.

    Gives the places in `rows_R` of those that lie in a window, in the order of the file, and the
    rows themselves; the next window is read over them. Windows without any are passed over.
    """
    values = math.prod(tensor.dims[1:])
    width = tensor.num_bytes // (values * tensor.dims[0])
    per_window = max(1, WINDOW_VALUES // values)
    order_R = np.argsort(rows_R, kind="stable")
    cuts = np.flatnonzero(np.diff(rows_R[order_R] // per_window)) + 1
    buffer = np.empty((min(per_window, tensor.dims[0]), *tensor.dims[1:]), f"<i{width}")
    with path.open("rb", buffering=0) as file:
        for places_W in np.split(order_R, cuts):
            first, last = rows_R[places_W[0]], rows_R[places_W[-1]]
            window = buffer[: last + 1 - first]
            file.seek(tensor.offset + int(first) * values * width)
            if file.readinto(window.reshape(-1).view(np.uint8).data) != window.nbytes:
                raise ParentError(f"{path}: cut short while it was read")
            kept_W = rows_R[places_W] - first
            every = np.array_equal(kept_W, np.arange(len(window)))
            yield places_W, window if every else window.take(kept_W, axis=0)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises `ParentError`."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParentError(f"{path.parent}: no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ParentError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(table, dict):
        raise ParentError(f"{path}: holds no JSON object")
    return table


def _shards(folder: Path) -> tuple[WeightFile, ...]:
    shard_of = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or not all(
        isinstance(shard, str) and Path(shard).name == shard for shard in shard_of.values()
    ):
        raise ParentError(f"{folder / INDEX}: no weight_map of file names in this folder")
    files = tuple(read_weight_file(folder / shard) for shard in sorted(set(shard_of.values())))
    stored = {(tensor.name, file.path.name) for file in files for tensor in file.tensors}
    for name, shard in shard_of.items():
        if (name, shard) not in stored:
            raise ParentError(f"{folder / INDEX}: tensor {name} is not in {shard}")
    return files


def _split(tensors: Sequence[StoredTensor], shard_bytes: int) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        if shards[-1] and tensor.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= tensor.num_bytes
    return shards


def _stored(name: str, entry: Mapping[str, Any], data_start: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(
        name=name,
        dtype=entry["dtype"],
        dims=tuple(entry["shape"]),
        offset=data_start + start,
        num_bytes=end - start,
    )


def _header(metadata: Mapping[str, str], tensors: Sequence[StoredTensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in tensors:
        offsets = [start, start + tensor.num_bytes]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.dims),
            "data_offsets": offsets,
        }
        start = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(math.ceil(len(text) / _ALIGNMENT) * _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
