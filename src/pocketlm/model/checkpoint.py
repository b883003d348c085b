"""Checkpoints on disk: a folder with config.json and safetensors, read one tensor at a time.

Names and shapes of all tensors are checked against the family before the first one is used.
Nothing is unpickled and no code of a checkpoint is run.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.child import Child
from pocketlm.model.family import Family, Placed, family_names, load_family, tensors_of
from pocketlm.model.shape import Shape, check_shape, shape_of

if TYPE_CHECKING:
    import torch

_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth")
_DTYPES = ("F64", "F32", "F16", "BF16")
_SAYS_NOTHING_OF_A_CHILD = ("torch_dtype", "transformers_version", "_name_or_path", "auto_map")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint; tensors stay on disk until read."""

    folder: Path
    config: Mapping[str, Any]
    shape: Shape
    stored: Mapping[str, tuple[Path, str]]
    """Tensor name -> file and the name it has there; a tied pair may be stored under either."""

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

        path, stored_name = self.stored[name]
        with safe_open(path, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(stored_name)
        return tensor


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
    config = _read_json(folder / "config.json")
    if "auto_map" in config and config["auto_map"] != _own_auto_map(config):
        raise ParentError(
            f"{folder}: config.json asks for custom code (auto_map), which is never run"
        )
    shape = shape_of(config)
    family = load_family(shape.family)
    _check_config(folder, config, family, shape)
    headers = _read_headers(_find_weights(folder))
    stored = _match(folder, family, shape, headers)
    checkpoint = Checkpoint(folder=folder, config=config, shape=shape, stored=stored)
    for head in _head_names(family) if shape.tied else ():
        if head in headers and stored[family.embedding][1] != head:
            _check_tied_pair(checkpoint, headers[head].path, head, family.embedding)
    return checkpoint


def load_child(folder: str | Path) -> Child:
    """A whole checkpoint in memory, float32; raises `ParentError` as `open_checkpoint` does."""
    import torch

    checkpoint = open_checkpoint(folder)
    tensors = {
        name: checkpoint.read(name).to(torch.float32, copy=True) for name in checkpoint.names
    }
    return Child(config=checkpoint.config, tensors=tensors)


def save_child(child: Child, folder: Path) -> None:
    """Write config.json and model.safetensors as transformers reads them.

    A tied head is not stored. The same child gives the same bytes. A class that is ours lies beside
    them as code, for those who load it by `trust_remote_code=True`.
    """
    from safetensors.torch import save_file

    config = {k: v for k, v in child.config.items() if k not in _SAYS_NOTHING_OF_A_CHILD}
    family = load_family(child.shape.family)
    config["architectures"] = [family.architecture]
    config["dtype"] = "float32"
    folder.mkdir(parents=True, exist_ok=True)
    if family.auto_map:
        config["auto_map"] = family.auto_map
    for code in family.code_files:
        shutil.copyfile(code, folder / code.name)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    stored = {placed.name: placed.stored for placed in tensors_of(child.shape)}
    tensors = {
        stored.get(name, name): tensor.contiguous() for name, tensor in child.tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class _Header:
    path: Path
    dims: tuple[int, ...]
    dtype: str


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParentError(f"{path.parent}: no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ParentError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(table, dict):
        raise ParentError(f"{path}: holds no JSON object")
    return table


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


def _find_weights(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        shards = _read_json(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(s, str) and Path(s).name == s for s in shards.values()
        ):
            raise ParentError(f"{folder / _INDEX}: no weight_map of file names in this folder")
        return [folder / shard for shard in sorted(set(shards.values()))]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        raise ParentError(f"{folder}: pickled checkpoints are not loaded; convert to safetensors")
    raise ParentError(f"{folder}: no model.safetensors and no {_INDEX}")


def _read_headers(files: list[Path]) -> dict[str, _Header]:
    from safetensors import SafetensorError, safe_open

    headers = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:  # headers need no torch
                for name in tensors.keys():  # noqa: SIM118  (not a mapping)
                    part = tensors.get_slice(name)
                    headers[name] = _Header(path, tuple(part.get_shape()), part.get_dtype())
        except FileNotFoundError:
            raise ParentError(f"{path}: no such file, though {_INDEX} names it") from None
        except (OSError, SafetensorError) as error:
            raise ParentError(f"{path}: damaged or cut short ({error})") from None
    return headers


def _match(
    folder: Path, family: Family, shape: Shape, headers: Mapping[str, _Header]
) -> dict[str, tuple[Path, str]]:
    """Where each tensor of the model is; every stored tensor must have its place."""
    stored: dict[str, tuple[Path, str]] = {}
    for placed in tensors_of(shape):
        found = next((name for name in _file_names(placed, family, shape) if name in headers), None)
        if found is None:
            raise ParentError(f"{folder}: tensor {placed.stored} {_dims(placed.dims)} is missing")
        header = headers[found]
        if header.dims != placed.dims:
            raise ParentError(
                f"{folder}: tensor {found} is {_dims(header.dims)}; "
                f"by config.json and {shape.family}.toml it should be {_dims(placed.dims)}"
            )
        if header.dtype not in _DTYPES:
            raise ParentError(f"{folder}: tensor {found} is {header.dtype}; it may be {_DTYPES}")
        stored[placed.name] = (header.path, found)
    known = {*(found for _, found in stored.values()), *_ignored(family, shape)}
    known |= {*_head_names(family)} if shape.tied else set()
    for name in sorted(headers.keys() - known):
        raise ParentError(
            f"{folder}: tensor {name} {_dims(headers[name].dims)} is not part of "
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
