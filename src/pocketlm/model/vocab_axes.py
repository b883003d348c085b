"""Which tensors of a checkpoint have a vocabulary axis, for any architecture of transformers.

No names are guessed: the architecture is built twice without memory (on torch's meta device), once
with its vocabulary size and once with another; what changes shape is the vocabulary's. Code that
comes with a checkpoint is never run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.errors import ParentError
from pocketlm.model.token_ids import fill_token_ids, vocab_sizes, with_vocab_size
from pocketlm.model.weight_files import StoredTensor, WeightFile, read_json, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Added to the vocabulary size, and to the size of other vocabularies, to see what changes.
_MORE_ROWS = 4099
_MORE_OTHER_ROWS = 8209


@dataclass(frozen=True, kw_only=True)
class VocabularyAxes:
    """A checkpoint of any architecture and where its vocabulary is."""

    folder: Path
    architecture: str
    config: Mapping[str, Any]
    """config.json, with the ids and sizes that the class has by default written out."""
    files: tuple[WeightFile, ...]
    axes: Mapping[str, int]
    """Name in the files -> the axis that counts tokens; tensors without one are not named."""
    targets: Mapping[str, str]
    """The same names -> names in the model."""
    num_rows: int
    """Rows of the shortest table, padding included."""
    num_params: int
    """Parameters of the model, a tied head counted once."""
    num_vocab_params: int
    """Those in matrices with a vocabulary axis."""
    num_vocab_matrices: int
    """How many such matrices there are: 1 for a tied head."""
    hidden: int
    """Width of their rows."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(file.path.stat().st_size for file in self.files)


def find_vocabulary(folder: Path, num_tokens: int) -> VocabularyAxes:
    """Find the vocabulary of a checkpoint whose tokenizer has ids below `num_tokens`.

    Raises `ParentError` with one line: no checkpoint, damaged or pickled weights, an architecture
    that transformers does not have, quantized weights, adapters, fewer rows than tokens, and any
    tensor that has a vocabulary of its own or may have one but is not of the architecture.
    """
    config, architecture = _read_config(folder)
    files = weight_files(folder)
    model = build_empty(folder, architecture, config)
    config = fill_token_ids(config, model.config.to_dict())
    dims = dims_of(model)
    axes = _axes(folder, architecture, config, dims, num_tokens)
    targets = _targets(folder, model, axes, files)
    _check_complete(folder, model, axes, set(targets.values()))
    num_rows = min(dims[name][axis] for name, axis in axes.items())
    if num_rows < num_tokens:
        raise ParentError(
            f"{folder}: token {num_tokens - 1} of the tokenizer has no row; the table has "
            f"{num_rows} rows"
        )
    parameters = {id(p): p for name, p in model.state_dict(keep_vars=True).items() if name in axes}
    matrices = [p.numel() for p in parameters.values() if min(p.shape) > 1]
    return VocabularyAxes(
        folder=folder,
        architecture=architecture,
        config=config,
        files=files,
        axes={name: axes[target] for name, target in targets.items()},
        targets=targets,
        num_rows=num_rows,
        num_params=num_parameters(model),
        num_vocab_params=sum(matrices),
        num_vocab_matrices=len(matrices),
        hidden=sum(matrices) // (num_rows * len(matrices)),
    )


def build_empty(folder: Path, architecture: str, config: Mapping[str, Any]) -> "PreTrainedModel":
    """The architecture without memory; raises `ParentError` if transformers cannot build it."""
    import torch
    import transformers

    known = transformers.CONFIG_MAPPING
    if config.get("model_type") not in known or not hasattr(transformers, architecture):
        raise ParentError(
            f"{folder}: config.json asks for {architecture} of model_type "
            f"{config.get('model_type')!r}, which transformers {transformers.__version__} does "
            "not have; code of a checkpoint is never run"
        )
    try:
        wanted = known[config["model_type"]].from_dict(_with_floats(config))
        with torch.device("meta"):
            return getattr(transformers, architecture)(wanted)
    except Exception as error:  # each architecture has its own ways of not liking a config
        reason = " ".join(str(error).split())
        raise ParentError(
            f"{folder}: transformers cannot build {architecture} from config.json "
            f"({type(error).__name__}: {reason[:200]})"
        ) from None


def dims_of(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything that a checkpoint of `model` may hold."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def num_parameters(model: "PreTrainedModel") -> int:
    """Parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _with_floats(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy; transformers writes infinity into a config as {"__float__": "Infinity"}."""

    def plain(table: dict[str, Any]) -> Any:
        return float(table["__float__"]) if table.keys() == {"__float__"} else table

    copied: dict[str, Any] = json.loads(json.dumps(config), object_hook=plain)
    return copied


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    if not folder.is_dir():
        raise ParentError(
            f"{folder}: no such folder; give a folder with config.json and safetensors"
        )
    config = read_json(folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise ParentError(f"{folder}: an adapter lies there; merge it into the model first")
    tables = [config, *(table for table in config.values() if isinstance(table, dict))]
    if any(table.get("quantization_config") for table in tables):
        raise ParentError(f"{folder}: the weights are quantized; give the unquantized checkpoint")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ParentError(
            f"{folder}: config.json architectures = {architectures!r}; one name is expected"
        )
    return config, str(architectures[0])


def _axes(
    folder: Path,
    architecture: str,
    config: Mapping[str, Any],
    dims: Mapping[str, tuple[int, ...]],
    num_tokens: int,
) -> dict[str, int]:
    """Name in the model -> vocabulary axis."""
    sizes = vocab_sizes(config)
    size = max(sizes, default=0) + _MORE_ROWS
    others = (num_tokens, size + _MORE_OTHER_ROWS)
    wider = dims_of(build_empty(folder, architecture, with_vocab_size(config, size, others=others)))
    axes: dict[str, int] = {}
    for name, before in dims.items():
        after = wider.get(name, ())
        changed = [
            a for a, pair in enumerate(zip(before, after, strict=False)) if len(set(pair)) > 1
        ]
        if len(before) != len(after) or [after[a] for a in changed] not in ([], [size]):
            raise ParentError(
                f"{folder}: tensor {name} {list(before)} has a vocabulary of its own; only tables "
                "of vocab_size rows can be cut"
            )
        if changed:
            axes[name] = changed[0]
    if not axes:
        raise ParentError(
            f"{folder}: no tensor of {architecture} depends on vocab_size = "
            f"{sorted(sizes) or None}; a language model is expected"
        )
    return axes


def _targets(
    folder: Path,
    model: "PreTrainedModel",
    axes: Mapping[str, int],
    files: tuple[WeightFile, ...],
) -> dict[str, str]:
    """Name in the files -> name in the model, for every tensor with a vocabulary axis."""
    dims = dims_of(model)
    rows = {dims[name][axis] for name, axis in axes.items()}
    rename = _renamer(model)
    targets: dict[str, str] = {}
    for tensor in (tensor for file in files for tensor in file.tensors):
        target, is_plain = rename(tensor.name)
        if target in axes:
            if not is_plain or tensor.dims != dims[target]:
                raise ParentError(
                    f"{folder}: tensor {tensor.name} is {list(tensor.dims)}; by config.json it "
                    f"should be {list(dims[target])}"
                )
            targets[tensor.name] = target
        elif target not in dims:
            _refuse_unknown(folder, type(model).__name__, tensor, rows)
    return targets


def _refuse_unknown(folder: Path, architecture: str, tensor: StoredTensor, rows: set[int]) -> None:
    """A tensor that the model does not have is copied, unless it may be one more table."""
    if rows & set(tensor.dims):
        raise ParentError(
            f"{folder}: tensor {tensor.name} {list(tensor.dims)} has an axis as long as the "
            f"vocabulary, but is not part of {architecture}; remove it first"
        )


def _renamer(model: "PreTrainedModel") -> Callable[[str], tuple[str, bool]]:
    """How transformers itself maps names of a file to names of the model: older names, base-model
    prefix; and whether the tensor is taken as it is."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix

    def rename(name: str) -> tuple[str, bool]:
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            return name, True
        return target, pattern is None

    return rename


def _check_complete(
    folder: Path, model: "PreTrainedModel", axes: Mapping[str, int], stored: set[str]
) -> None:
    """Each table must be in the files under one of its names."""
    import torch

    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in axes and isinstance(tensor, torch.nn.Parameter):
            names.setdefault(id(tensor), []).append(name)
    for tied in names.values():
        if stored.isdisjoint(tied):
            raise ParentError(f"{folder}: tensor {tied[0]} is missing")
