"""Checkpoints on disk: a folder with config.json and safetensors, read one tensor at a time.

Names and shapes of all tensors are checked against the family before the first one is used.
Nothing is unpickled and no code of a checkpoint is run.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.child import Child
from pocketlm.model.family import Family, Placed, family_names, load_family, tensors_of
from pocketlm.model.shape import Shape, check_shape, shape_of
from pocketlm.model.weight_files import (
    SHARD_BYTES,
    StoredTensor,
    read_json,
    read_rows,
    weight_files,
    whole_folder,
    write_weights,
)

if TYPE_CHECKING:
    import torch

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_SAYS_NOTHING_OF_A_CHILD = ("torch_dtype", "transformers_version", "_name_or_path", "auto_map")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint; tensors stay on disk until read."""

    folder: Path
    config: Mapping[str, Any]
    shape: Shape
    stored: Mapping[str, tuple[Path, StoredTensor]]
    """Tensor name -> file and what it is there; a tied pair may be stored under either name."""
    dtype: str = "float32"
    """What a child cut out of it is stored as without loss: bfloat16 or float16 where every tensor
    is that, float32 otherwise."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor of the model, embedding first; without the head where it is tied."""
        return tuple(placed.name for placed in tensors_of(self.shape))

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files whose bytes decide what the model computes: config, then weights."""
        return (self.folder / "config.json", *sorted({path for path, _ in self.stored.values()}))

    def read(self, name: str) -> "torch.Tensor":
        """One tensor as stored (dtype and shape), mapped from its file."""
        from safetensors import safe_open

        path, stored = self.stored[name]
        with safe_open(path, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(stored.name)
        return tensor

    def read_finite(self, name: str) -> "torch.Tensor":
        """As `read`; raises `ParentError` where the tensor holds nan or inf."""
        tensor = self.read(name)
        self.check_finite(name, tensor)
        return tensor

    def windows(
        self, name: str, rows_R: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], "torch.Tensor"]]:
        """The rows `rows_R` of a tensor (all by default) as stored, some MiB of the file at a time.

        Gives which of `rows_R` they are, and the rows, which are gone at the next step. Rows come
        as they lie in the file, and parts of the file without any are not read.
        """
        import torch

        path, stored = self.stored[name]
        dtype = getattr(torch, _DTYPES[stored.dtype])
        rows_R = np.arange(stored.dims[0]) if rows_R is None else rows_R
        for places, bits in read_rows(path, stored, rows_R):
            yield places, torch.from_numpy(bits).view(dtype)

    def check_finite(self, name: str, numbers: "torch.Tensor") -> None:
        """Raise `ParentError` if `numbers`, made from the tensor `name`, hold nan or inf."""
        import torch

        ends = torch.stack(torch.aminmax(numbers))  # one pass; both are nan where any number is
        if not ends.isfinite().all():
            raise ParentError(
                f"{self.stored[name][0]}: tensor {name} holds nan or inf; weights are numbers, so "
                "the file is damaged or its training broke: take another copy of the parent"
            )


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Open a transformers checkpoint of safetensors, one file or sharded.

    Raises `ParentError` with one line for anything that is not a whole checkpoint of a known
    family: no folder, no config, pickled or damaged weights, custom code, unknown model_type, a
    tensor that is missing, of another shape or not of the family.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ParentError(
            f"{folder}: no such folder; give a folder with config.json and safetensors"
        )
    config = read_json(folder / "config.json")
    if "auto_map" in config and config["auto_map"] != _own_auto_map(config):
        raise ParentError(
            f"{folder}: config.json asks for custom code (auto_map), which is never run"
        )
    shape = shape_of(config)
    family = load_family(shape.family)
    _check_config(folder, config, family, shape)
    files = {
        tensor.name: (file.path, tensor) for file in weight_files(folder) for tensor in file.tensors
    }
    stored = _match(folder, family, shape, files)
    dtypes = {tensor.dtype for _, tensor in stored.values()}
    dtype = _DTYPES[dtypes.pop()] if dtypes in ({"BF16"}, {"F16"}) else "float32"
    checkpoint = Checkpoint(folder=folder, config=config, shape=shape, stored=stored, dtype=dtype)
    for head in _head_names(family) if shape.tied else ():
        if head in files and stored[family.embedding][1].name != head:
            _check_tied_pair(checkpoint, files[head][0], head, family.embedding)
    return checkpoint


def load_child(folder: str | Path) -> Child:
    """A whole checkpoint in memory, float32; raises `ParentError` as `open_checkpoint` does."""
    import torch

    checkpoint = open_checkpoint(folder)
    tensors = {
        name: checkpoint.read(name).to(torch.float32, copy=True) for name in checkpoint.names
    }
    return Child(config=checkpoint.config, tensors=tensors)


def save_child(child: Child, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json and the weights as transformers reads them, one tensor at a time.

    One file, or shards of `shard_bytes` and their index. A tied head is not stored. The same child
    gives the same bytes. A class that is ours lies beside them as code, for those who load it by
    `trust_remote_code=True`. All of it appears when it is complete. Raises `OutputError` where
    there is no space.
    """
    config = {k: v for k, v in child.config.items() if k not in _SAYS_NOTHING_OF_A_CHILD}
    family = load_family(child.shape.family)
    config |= {"architectures": [family.architecture], "dtype": child.dtype}
    if family.auto_map:
        config["auto_map"] = family.auto_map
    names = {placed.stored: placed.name for placed in _in_file_order(child.shape)}
    assert set(names.values()) == set(child.tensors), "tensors and config of the child differ"
    entries = [_entry(placed, child.dtype) for placed in _in_file_order(child.shape)]

    def chunks_of(entry: StoredTensor) -> Iterator[memoryview]:
        yield _bytes_of(child.tensors[names[entry.name]], child.dtype)

    with whole_folder(folder, sum(entry.num_bytes for entry in entries)) as work:
        for code in family.code_files:
            shutil.copyfile(code, work / code.name)
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (work / "config.json").write_text(text, encoding="utf-8")
        write_weights(work, {"format": "pt"}, entries, chunks_of, shard_bytes=shard_bytes)


def _in_file_order(shape: Shape) -> list[Placed]:
    """Embedding, layers, the rest: as transformers fills shards, so that a cut goes through those
    of the parent once."""
    once = [placed for placed in tensors_of(shape) if placed.layer is None]
    layers = [placed for placed in tensors_of(shape) if placed.layer is not None]
    assert once[0].row.part == "embedding"
    return [once[0], *layers, *once[1:]]


def _entry(placed: Placed, dtype: str) -> StoredTensor:
    code = next(code for code, name in _DTYPES.items() if name == dtype)
    num_bytes = math.prod(placed.dims) * (4 if dtype == "float32" else 2)
    return StoredTensor(
        name=placed.stored, dtype=code, dims=placed.dims, offset=0, num_bytes=num_bytes
    )


def _bytes_of(tensor: "torch.Tensor", dtype: str) -> memoryview:
    import torch

    assert str(tensor.dtype) == f"torch.{dtype}", f"{tensor.dtype} in a child of {dtype}"
    return tensor.detach().contiguous().view(torch.uint8).reshape(-1).numpy().data


def _own_auto_map(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The auto_map of a class that is ours: pocketlm's own is built, the folder's code not run."""
    model_type = config.get("model_type")
    own = load_family(model_type).auto_map if model_type in family_names() else {}
    return own or None


def _check_config(folder: Path, config: Mapping[str, Any], family: Family, shape: Shape) -> None:
    for key, value in family.only.items():
        if config.get(key, value) != value:
            raise ParentError(
                f"{folder}: config.json {key} = {config[key]!r}: {shape.family} is supported "
                f"with {value!r} only"
            )
    for key in family.per_layer:
        entries = config.get(key)
        if entries is not None and (not isinstance(entries, list) or len(entries) != shape.layers):
            raise ParentError(
                f"{folder}: config.json {key} = {entries!r}: it should be a list of "
                f"{shape.layers} entries, one for each layer"
            )
    if "quantization_config" in config:
        raise ParentError(f"{folder}: the weights are quantized; give the unquantized checkpoint")
    try:
        check_shape(shape)
    except RecipeError as error:
        raise ParentError(f"{folder}: config.json {error}") from None


def _match(
    folder: Path,
    family: Family,
    shape: Shape,
    files: Mapping[str, tuple[Path, StoredTensor]],
) -> dict[str, tuple[Path, StoredTensor]]:
    """Where each tensor of the model is; every stored tensor must have its place."""
    stored: dict[str, tuple[Path, StoredTensor]] = {}
    for placed in tensors_of(shape):
        found = next((name for name in _file_names(placed, family, shape) if name in files), None)
        if found is None:
            raise ParentError(f"{folder}: tensor {placed.stored} {_dims(placed.dims)} is missing")
        _, tensor = files[found]
        if tensor.dims != placed.dims:
            raise ParentError(
                f"{folder}: tensor {found} is {_dims(tensor.dims)}; "
                f"by config.json and {shape.family}.toml it should be {_dims(placed.dims)}"
            )
        if tensor.dtype not in _DTYPES:
            raise ParentError(
                f"{folder}: tensor {found} is {tensor.dtype}; it may be {', '.join(_DTYPES)}"
            )
        stored[placed.name] = files[found]
    known = {*(tensor.name for _, tensor in stored.values()), *_ignored(family, shape)}
    known |= {*_head_names(family)} if shape.tied else set()
    for name in sorted(files.keys() - known):
        raise ParentError(
            f"{folder}: tensor {name} {_dims(files[name][1].dims)} is not part of "
            f"{shape.family} with {shape.layers} layers"
        )
    return stored


def _file_names(placed: Placed, family: Family, shape: Shape) -> tuple[str, ...]:
    """What a file may call it; a tied table may be stored as the head."""
    as_head = _head_names(family) if shape.tied and placed.row.part == "embedding" else ()
    return (placed.stored, placed.name, *as_head)


def _head_names(family: Family) -> tuple[str, ...]:
    return tuple(name for name in (family.head.stored, family.head.name) if name)


def _ignored(family: Family, shape: Shape) -> Iterator[str]:
    for name in family.ignored:
        yield from (name.format(layer=layer) for layer in range(shape.layers))


def _check_tied_pair(checkpoint: Checkpoint, head_file: Path, head: str, embedding: str) -> None:
    """A tied model that stores both tables must store the same one twice."""
    import torch
    from safetensors import safe_open

    with safe_open(head_file, framework="pt") as tensors:
        same = torch.equal(tensors.get_tensor(head), checkpoint.read(embedding))
    if not same:
        raise ParentError(
            f"{checkpoint.folder}: {head} differs from {embedding}, but config.json "
            "ties them; set tie_word_embeddings to false"
        )


def _dims(dims: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"
