"""A recipe: everything a run needs, complete before anything runs.

TOML -> table -> changes -> frozen pydantic models, once. Unknown keys are errors that name the
nearest key. Each field's docstring gives unit, range and source; `pocketlm new` and the docs table
are generated from them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pocketlm.design_table import DesignTable as DesignTable
from pocketlm.design_table import ShapeTable as ShapeTable
from pocketlm.evaluate_table import EvaluateTable as EvaluateTable
from pocketlm.export_table import ExportTable as ExportTable
from pocketlm.tables import Table, load_table
from pocketlm.train_table import TrainTable as TrainTable


class ParentRecipe(Table):
    """A parent that is itself made by a recipe, first, in the same store."""

    recipe: str
    """Path of the parent's recipe, relative to this one."""


class TrainTokenizer(Table):
    """A tokenizer made for the corpus, for parents trained from nothing."""

    train: int = Field(ge=257)
    """Tokens of a byte-level BPE trained on the corpus's training part."""


class CorpusTable(Table):
    """The text: read once, split once, for every stage and every recipe alike."""

    files: tuple[str, ...] = Field(min_length=1)
    """Globs of .jsonl, .txt, .md, .rst, .py (each also .gz or .zst) or .parquet, relative to the
    recipe; or `stdlib`, the sources and documentation of the running Python."""
    text_field: str = "text"
    """Column or key that holds the text in .jsonl and .parquet."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Training text used at most, UTF-8 bytes; the held-out part is never cut. Default: all."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Source (an entry of corpus.files, its last parts) -> how often a pass of training reads it:
    2 twice, 0.5 every second block, 0 never (docs/4-train.md). Default: 1."""


class CompactTable(Table):
    """Stage 1: a vocabulary of the right size (paper, compact tokenizer)."""

    vocab_size: int | Literal["auto"] | None = None
    """Tokens to keep, or `auto`: fewest multiplications per byte of text, (N_body + V d) tokens per
    byte (with only [design] max_params: as `max_share` = 0.2). Default: all of the parent's."""
    coverage: float | None = Field(default=None, gt=0, le=1)
    """Instead of a size: keep this share of the training text's tokens (paper: > 0.9)."""
    max_share: float | None = Field(default=None, gt=0, lt=1)
    """Instead of a size: vocabulary matrices take at most this share of the parameters (paper:
    < 0.2)."""
    select: str = "usage"
    """Which tokens stay: a name of SELECTORS."""
    keep: tuple[str, ...] = ()
    """Texts whose tokens stay whatever their count, such as role words of a chat."""
    keep_patterns: tuple[str, ...] = ()
    """Regular expressions: every token whose whole text matches one stays."""
    keep_scripts: tuple[str, ...] = ()
    """Scripts such as Latin, Han or Cyrillic: every token written in one stays."""
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Source (an entry of corpus.files, its last parts) -> weight of its counts. Default: 1."""
    sample_bytes: int | None = Field(default=None, ge=1)
    """Training text counted at most, UTF-8 bytes; coverage then has an interval. Default: all."""

    @model_validator(mode="after")
    def _one_size(self) -> "CompactTable":
        given = [k for k in ("vocab_size", "coverage", "max_share") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}, not all")
        if isinstance(self.vocab_size, int) and self.vocab_size < 1:
            raise ValueError(f"vocab_size = {self.vocab_size}: at least 1")
        return self


class InheritTable(Table):
    """Stage 3: the child's first weights (paper, parameter inheritance)."""

    start: str = "parent"
    """`parent` cuts the child out of the parent; else a name of STARTS (random weights). A recipe
    without a parent starts from `constant` unless it says otherwise."""
    layers: str | tuple[int, ...] = "ends"
    """Which layers stay: a name of LAYER_PICKS, or the parent's layer (from 0) for each of the
    child's, in any order and more than once."""
    neurons: str = "auto"
    """How heads, FFN neurons and, with `hidden = "score"`, channels are scored: a name of
    NEURON_SCORES. `auto`: `energy`."""
    hidden: str = "auto"
    """How the residual stream is narrowed: a name of HIDDEN_CUTS. `auto`: `rotate` where the
    parent's family can be rotated, else `score`."""
    norm_energy: bool | Literal["auto"] = "auto"
    """Rescale each RMSNorm by the share of the stream's energy that stays, sqrt(rho D / K). `auto`:
    where the family can be rotated."""
    refit: str = "auto"
    """How output matrices are fitted anew on text after the cut: a name of REFITS. `auto`: `stream`
    where the family can be rotated, else `output`."""
    calibration_blocks: int = Field(default=128, ge=2)
    """Blocks of training text that the methods which look at text see, spread evenly over it, each
    of [train] seq_len tokens (Minitron: 1024 of 4096; LLM-Pruner: 10 of 64)."""
    mask_steps: int = Field(default=300, ge=2)
    """Steps of 8 calibration blocks in which masks learn (LLM-Shearing: 3200 of 32 x 4096)."""
    mask_rate: float = Field(default=0.3, gt=0)
    """Adam's learning rate of the masks' log alphas (LLM-Shearing: 1.0)."""
    mask_weights: Literal["frozen", "trained"] = "frozen"
    """Whether the parent's weights train along with the masks (at 1e-4, LLM-Shearing's rate); the
    child is then cut out of those."""

    @model_validator(mode="after")
    def _norms_are_corrected_once(self) -> "InheritTable":
        masked = self.neurons == "mask" and self.hidden == "score"
        if masked and self.mask_weights == "trained" and self.norm_energy is True:
            raise ValueError(
                "norm_energy: gains trained under masks fit the narrow stream already; leave it "
                "false, or set mask_weights = 'frozen'"
            )
        return self


class Recipe(Table):
    """One run, whole. `family` and `tokenizer` matter only where no parent gives them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its folder under OUT/runs."""
    seed: int = Field(default=0, ge=0)
    """Root of all randomness; every draw names its own branch."""
    parent: str | ParentRecipe | None = None
    """Model folder, or { recipe = "..." }. Without one the child starts from random weights."""
    family: str = "llama"
    """Model family of a child without a parent: a file of model/families."""
    tokenizer: str | TrainTokenizer | None = None
    """tokenizer.json, SentencePiece .model or folder; or { train = N }. Default: the parent's."""
    device: str = "this-machine"
    """Device profile the child is meant for: a file of devices/."""
    corpus: CorpusTable
    """The text."""
    compact: CompactTable = CompactTable()
    """Stage 1."""
    design: DesignTable = DesignTable()
    """Stage 2. Without a parent it needs a limit or a shape; with one the default is the parent's
    own shape."""
    inherit: InheritTable = InheritTable()
    """Stage 3."""
    train: TrainTable = TrainTable()
    """Stage 4."""
    evaluate: EvaluateTable = EvaluateTable()
    """Stage 5."""
    export: ExportTable = ExportTable()
    """Stage 6."""

    @model_validator(mode="after")
    def _has_a_source(self) -> "Recipe":
        if self.parent is None:
            if self.tokenizer is None:
                raise ValueError("without a parent a recipe needs a tokenizer")
            if not self.design.has_budget and self.design.shape is None:
                raise ValueError(
                    "without a parent, [design] needs a limit such as max_params, or a shape"
                )
        elif self.tokenizer is not None:
            raise ValueError("tokenizer is the parent's; give parent or tokenizer, not both")
        return self

    @property
    def parent_name(self) -> str | None:
        """What people call the parent: its folder, or its recipe's file."""
        if isinstance(self.parent, ParentRecipe):
            return Path(self.parent.recipe).name.removesuffix(".toml")
        return None if self.parent is None else Path(self.parent).name

    @property
    def start(self) -> str:
        """How the child's weights begin: `parent`, or a name of STARTS."""
        no_parent = self.parent is None and self.inherit.start == "parent"
        return "constant" if no_parent else self.inherit.start


def load_recipe(path: str | Path, *, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe, apply `changes` (dotted key -> value), make every path absolute.

    Raises `RecipeError`, one line: file, key, what was given, what is accepted.
    """
    path = Path(path)
    recipe = load_table(Recipe, path, changes=changes)
    return _absolute(recipe, path.resolve().parent)


def _absolute(recipe: Recipe, base: Path) -> Recipe:
    """Paths in a recipe are relative to its own folder, so it works from anywhere."""

    def anchor(path: str) -> str:
        return str((base / Path(path).expanduser()).absolute())

    update: dict[str, Any] = {
        "corpus": recipe.corpus.model_copy(
            update={"files": tuple(f if f == "stdlib" else anchor(f) for f in recipe.corpus.files)}
        )
    }
    if isinstance(recipe.parent, ParentRecipe):
        update["parent"] = ParentRecipe(recipe=anchor(recipe.parent.recipe))
    elif recipe.parent is not None:
        update["parent"] = anchor(recipe.parent)
    if recipe.design.law is not None:
        law = anchor(recipe.design.law)
        update["design"] = recipe.design.model_copy(update={"law": law})
    if recipe.evaluate.data is not None:
        data = anchor(recipe.evaluate.data)
        update["evaluate"] = recipe.evaluate.model_copy(update={"data": data})
    if isinstance(recipe.tokenizer, str):
        update["tokenizer"] = anchor(recipe.tokenizer)
    return recipe.model_copy(update=update)
