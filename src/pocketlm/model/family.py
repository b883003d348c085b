"""Model families as data: the name, part and axes of every tensor, read from families/*.toml.

Cost and cut both follow this data, so a family is added by writing its file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pocketlm.errors import ParentError
from pocketlm.model.shape import Shape
from pocketlm.tables import Table, load_table

Axis = Literal["vocab", "hidden", "heads", "kv_heads", "ffn", "head_dim", "shortcut"]
Part = Literal["embedding", "attention", "shortcut", "ffn", "norms", "head"]

_FOLDER = Path(__file__).parent / "families"


class TensorRow(Table):
    """One tensor of the family, or one per layer."""

    name: str
    """As transformers calls it; `{layer}` stands for the layer's number, `{term}` for each of a
    series' activations after the first."""
    part: Part
    """What its parameters are counted under."""
    axes: tuple[Axis, ...]
    """What each dimension runs over. `heads` and `kv_heads` run over heads x head_dim."""
    neutral: float | None = None
    """Value all over at which the tensor changes nothing; what it starts with."""

    @property
    def per_layer(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.name

    @property
    def writes_residual(self) -> bool:
        """Whether its output is added to the residual stream (attention output, FFN down)."""
        return self.per_layer and len(self.axes) == 2 and self.axes[0] == "hidden"


class Family(Table):
    """All tensors of one model_type."""

    architecture: str
    """The transformers class, for config.json."""
    ignored: tuple[str, ...] = ()
    """Tensors that may be stored and are never read."""
    only: dict[str, Any]
    """Config keys, and the only value for which this file describes the model."""
    auto_map: dict[str, str] = Field(default_factory=dict)
    """For a class that is ours: how a checkpoint names its code file, which is one of model/."""
    fresh: dict[str, Any]
    """Config of a model without a parent, besides its shape."""
    tensors: tuple[TensorRow, ...]
    """Every tensor, in the order of the model."""

    @property
    def embedding(self) -> str:
        """Name of the embedding table."""
        return next(row.name for row in self.tensors if row.part == "embedding")

    @property
    def code_files(self) -> tuple[Path, ...]:
        """The modules of `auto_map`, to lie beside a checkpoint; none where transformers' own."""
        modules = sorted({place.split(".")[0] for place in self.auto_map.values()})
        return tuple(_FOLDER.parent / f"{module}.py" for module in modules)

    @property
    def head(self) -> str:
        """Name of the output matrix."""
        return next(row.name for row in self.tensors if row.part == "head")


@dataclass(frozen=True, slots=True)
class Placed:
    """A row of the family at one place of a model: its full name, layer and dimensions."""

    name: str
    row: TensorRow
    layer: int | None
    dims: tuple[int, ...]


def family_names() -> tuple[str, ...]:
    """The families there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def load_family(name: str) -> Family:
    """The family of a `model_type`; raises `ParentError` that lists what there is."""
    if name not in family_names():
        raise ParentError(
            f"model_type = {name!r}: no such family; it has {', '.join(family_names())}"
        )
    return load_table(Family, _FOLDER / f"{name}.toml")


def tensors_of(shape: Shape) -> Iterator[Placed]:
    """Every tensor a model of `shape` stores, embedding first; a tied head is not stored."""
    family, sizes = load_family(shape.family), axis_sizes(shape)
    for row in family.tensors:
        if not row.per_layer and not (row.part == "head" and shape.tied):
            yield Placed(row.name, row, None, tuple(sizes[axis] for axis in row.axes))
    rows = tuple(_rows_of(family, shape))
    for layer in range(shape.layers):
        for row in rows:
            if row.per_layer:
                dims = tuple(sizes[axis] for axis in row.axes)
                yield Placed(row.name.format(layer=layer), row, layer, dims)


def _rows_of(family: Family, shape: Shape) -> Iterator[TensorRow]:
    """The rows a model of `shape` has: one a term of its series, no shortcut of width 0."""
    for row in family.tensors:
        if "{term}" in row.name:
            for term in range(1, shape.series):
                yield row.model_copy(update={"name": row.name.replace("{term}", str(term))})
        elif shape.shortcut or "shortcut" not in row.axes:
            yield row


def axis_sizes(shape: Shape) -> Mapping[Axis, int]:
    """Length of each axis in tensor entries."""
    return {
        "vocab": shape.vocab_size,
        "hidden": shape.hidden,
        "heads": shape.heads * shape.head_dim,
        "kv_heads": shape.kv_heads * shape.head_dim,
        "ffn": shape.ffn,
        "head_dim": shape.head_dim,
        "shortcut": shape.shortcut,
    }
