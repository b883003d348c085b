"""Model families as data: the name, part and axes of every tensor, read from families/*.toml.

Cost, cut and random starts all follow this data, so a family is added by writing its file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pocketlm.errors import ParentError
from pocketlm.tables import Table, load_table

if TYPE_CHECKING:  # a shape is read by its family's keys
    from pocketlm.model.shape import Shape

Axis = Literal["vocab", "hidden", "heads", "kv_heads", "qkv_heads", "ffn", "head_dim", "shortcut"]
Part = Literal["embedding", "attention", "shortcut", "ffn", "norms", "head"]

_FOLDER = Path(__file__).parent / "families"


class TensorRow(Table):
    """One tensor of the family, or one per layer."""

    name: str
    """As the transformers class calls it; `{layer}` stands for the layer's number, `{term}` for
    each of a series' activations after the first."""
    stored: str = ""
    """As files call it, where that differs: either is read, this is written."""
    part: Part
    """What its parameters are counted under."""
    axes: tuple[Axis, ...] = Field(min_length=1, max_length=2)
    """What each dimension runs over. `heads` and `kv_heads` run over heads x head_dim, `qkv_heads`
    over heads x (query, key, value) x head_dim: one matrix for the three, head after head."""
    when: str = ""
    """Config key that must be true for the tensor to exist; by default it always does."""
    neutral: float | None = None
    """Value all over at which the tensor changes nothing; what it starts with."""

    @property
    def per_layer(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.name

    @property
    def writes_residual(self) -> bool:
        """Whether its output goes to the residual stream (attention output, FFN down)."""
        return self.per_layer and len(self.axes) == 2 and self.axes[0] == "hidden"

    @property
    def is_bias(self) -> bool:
        """Whether it is added, not multiplied by."""
        return self.name.endswith(".bias")


class Keys(Table):
    """What config.json calls each size. Empty where the family has no such key."""

    vocab_size: str = "vocab_size"
    layers: str = "num_hidden_layers"
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    """Empty: every head has its own keys and values."""
    head_dim: str = "head_dim"
    """Empty: always hidden / heads."""
    ffn: str = "intermediate_size"
    tied: str = "tie_word_embeddings"


class Family(Table):
    """All tensors of one model_type."""

    architecture: str
    """The transformers class, for config.json."""
    ignored: tuple[str, ...] = ()
    """Tensors that may be stored and are never read."""
    per_layer: tuple[str, ...] = ()
    """Config keys that hold one entry a layer; they are cut with the layers."""
    layer_counts: tuple[str, ...] = ()
    """Config keys that hold a number of layers, counted from the first."""
    keys: Keys = Keys()
    """Config keys of the sizes, where they are not the usual ones."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """What transformers takes where config.json does not say."""
    only: dict[str, Any] = Field(default_factory=dict)
    """Config keys, and the only value for which this file describes the model."""
    auto_map: dict[str, str] = Field(default_factory=dict)
    """For a class that is ours: how a checkpoint names its code file, which is one of model/."""
    fresh: dict[str, Any]
    """Config of a model without a parent, besides its shape."""
    rotates: bool = False
    """Whether the stream is read through RMSNorms alone, each listed right before its readers: then
    a rotation of the stream can be folded into the weights."""
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
    def head(self) -> TensorRow:
        """The output matrix."""
        return next(row for row in self.tensors if row.part == "head")

    @property
    def switches(self) -> dict[str, bool]:
        """Config keys that decide whether tensors exist, and their defaults."""
        return {row.when: bool(self.defaults[row.when]) for row in self.tensors if row.when}

    @model_validator(mode="after")
    def _makes_sense(self) -> "Family":
        for part in ("embedding", "head"):
            rows = [row for row in self.tensors if row.part == part]
            if len(rows) != 1 or rows[0].axes != ("vocab", "hidden") or rows[0].per_layer:
                raise ValueError(f"one tensor of part {part!r} with axes [vocab, hidden] is needed")
        for name, count in Counter(row.name for row in self.tensors).items():
            if count > 1:
                raise ValueError(f"tensor {name} stands there {count} times")
        for row in self.tensors:
            self._check_row(row)
        return self

    def _check_row(self, row: TensorRow) -> None:
        if not row.per_layer and not set(row.axes) <= {"vocab", "hidden"}:
            raise ValueError(f"tensor {row.name} {list(row.axes)}: only a layer has such axes")
        if row.when and row.when not in self.defaults:
            raise ValueError(f"tensor {row.name}: [defaults] lacks its switch {row.when!r}")
        if "qkv_heads" in row.axes and self.keys.kv_heads:
            raise ValueError(f"tensor {row.name}: qkv_heads needs [keys] kv_heads = ''")

    @property
    def final_norm(self) -> str:
        """Name of the gain of the norm before the output matrix."""
        return next(row.name for row in self.tensors if row.part == "norms" and not row.per_layer)


@dataclass(frozen=True, slots=True)
class Placed:
    """A row of the family at one place of a model: its full name, layer and dimensions."""

    name: str
    row: TensorRow
    layer: int | None
    dims: tuple[int, ...]

    @property
    def stored(self) -> str:
        """The name it is written under."""
        return self.row.stored.format(layer=self.layer) or self.name


def family_names() -> tuple[str, ...]:
    """The families there are."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_family(name: str) -> Family:
    """The family of a `model_type`; raises `ParentError` that lists what there is.

    Raises `RecipeError` with one line for a file that says something impossible.
    """
    return _load(_FOLDER, name)


def tensors_of(shape: "Shape") -> Iterator[Placed]:
    """Every tensor a model of `shape` has, embedding first; a tied head is not stored."""
    sizes = axis_sizes(shape)
    modules = (shape.series, shape.shortcut)
    once, per_layer = _rows(_FOLDER, shape.family, shape.tied, shape.flipped, modules)
    for row in once:
        yield Placed(row.name, row, None, tuple(sizes[axis] for axis in row.axes))
    for layer in range(shape.layers):
        for row in per_layer:
            dims = tuple(sizes[axis] for axis in row.axes)
            yield Placed(row.name.format(layer=layer), row, layer, dims)


def axis_sizes(shape: "Shape") -> Mapping[Axis, int]:
    """Length of each axis in tensor entries."""
    return {
        "vocab": shape.vocab_size,
        "hidden": shape.hidden,
        "heads": shape.heads * shape.head_dim,
        "kv_heads": shape.kv_heads * shape.head_dim,
        "qkv_heads": shape.heads * 3 * shape.head_dim,
        "ffn": shape.ffn,
        "head_dim": shape.head_dim,
        "shortcut": shape.shortcut,
    }


@cache
def _load(folder: Path, name: str) -> Family:
    if name not in family_names():
        raise ParentError(
            f"model_type = {name!r}: no such family; it has {', '.join(family_names())}; another "
            f"is a file of tensor names and axes, model/families/{name}.toml (docs/3-inherit.md)"
        )
    return load_table(Family, folder / f"{name}.toml")


@cache
def _rows(
    folder: Path, name: str, tied: bool, flipped: tuple[str, ...], modules: tuple[int, int]
) -> tuple[tuple[TensorRow, ...], tuple[TensorRow, ...]]:
    """The rows that exist, outside the layers and in each; design asks thousands of times."""
    family = _load(folder, name)
    rows = [row for row in family.tensors if not (row.part == "head" and tied)]
    there = [
        row
        for row in _with_modules(rows, *modules)
        if not row.when or family.switches[row.when] != (row.when in flipped)
    ]
    return (
        tuple(row for row in there if not row.per_layer),
        tuple(row for row in there if row.per_layer),
    )


def _with_modules(rows: Iterable[TensorRow], series: int, shortcut: int) -> Iterator[TensorRow]:
    """One row a term of a series after the first, none of a shortcut of width 0."""
    for row in rows:
        if "{term}" in row.name:
            for term in range(1, series):
                yield row.model_copy(update={"name": row.name.replace("{term}", str(term))})
        elif shortcut or "shortcut" not in row.axes:
            yield row
