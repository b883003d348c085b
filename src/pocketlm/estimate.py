"""What a recipe will cost: seconds a stage and the price of its shape, before anything runs.

Training time is FLOPs over the rate this store's own runs reached; without one, over half of a
matrix-product rate measured on the spot. The rest are rates of this class of machine, rounded.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pocketlm.artifact import Artifact, Store
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.device import load_device
from pocketlm.errors import CorpusError, DamagedArtifact, ParentError
from pocketlm.inputs import Inputs
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.cost import count_params, flops_per_token
from pocketlm.model.shape import Shape
from pocketlm.pipeline import Step, make_chain, plan, resolve, stages_of
from pocketlm.price import MFU, PEAK_FLOPS, Price, price
from pocketlm.recipe import Recipe, TrainTokenizer
from pocketlm.stages.design.successive_halving import PROXY_PASSES
from pocketlm.stages.inherit.evidence import learns_masks, needs_blocks
from pocketlm.stages.inherit.whole import BATCH_BLOCKS
from pocketlm.stages.train.resample import parent_passes, scores_blocks
from pocketlm.steps import decide_shape
from pocketlm.units import show_count, show_seconds

_BYTES_PER_TOKEN = 3.5
_COUNT_BYTES_PER_S = 8e6
_READ_BYTES_PER_S = 1.5e6  # tokenise, one core
_FIT_SECONDS = 40.0  # twenty shapes timed
_FIXED_SECONDS = {"compact": 8.0, "design": 1.0, "inherit": 8.0, "evaluate": 15.0, "export": 20.0}
_PASSES = 4  # over the calibration blocks at most: statistics, norms, refit (parent and child)


@dataclass(frozen=True)
class StepCost:
    """One artifact of the plan and the seconds it should take; 0 where it is reused."""

    step: Step
    seconds: float


@dataclass(frozen=True)
class SourceTokens:
    """One source of the training text: tokens it holds, about, and how often a pass reads it."""

    source: str
    tokens: float
    weight: float

    @property
    def read(self) -> float:
        """Tokens of it in a pass, about."""
        return self.tokens * self.weight


@dataclass(frozen=True)
class Estimate:
    """A plan with its costs."""

    steps: tuple[StepCost, ...]
    shape: Shape
    parent: Shape | None
    train_tokens: float
    pass_tokens: float
    """Tokens of a pass over the training text, about."""
    sources: tuple["SourceTokens", ...]
    """What a pass is made of."""
    basis: str

    @property
    def num_params(self) -> int:
        """Stored parameters of the child."""
        return count_params(self.shape)

    @property
    def seconds(self) -> float:
        """All that is left to make."""
        return sum(cost.seconds for cost in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Flat numbers and the list of steps."""
        return {
            "seconds": round(self.seconds, 1),
            "params": self.num_params,
            "train_tokens": round(self.train_tokens),
            "pass_tokens": {of.source: round(of.read) for of in self.sources},
            "steps": [asdict(cost.step) | {"seconds": cost.seconds} for cost in self.steps],
        }

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        rows = [f"{'run':<20} {'stage':<11} {'key':<17} {'':<7} about"]
        for cost in self.steps:
            done = "reused" if cost.step.reused else "make"
            time = "" if cost.step.reused else show_seconds(cost.seconds)
            step = cost.step
            rows.append(f"{step.run:<20} {step.stage:<11} {step.key:<17} {done:<7} {time}")
        size = f"child of about {show_count(self.num_params)} parameters"
        text = f"{show_count(float(self.train_tokens))} tokens of training"
        rows += ["", f"{size}, {text}: {show_seconds(self.seconds)} left ({self.basis})"]
        if len(self.sources) == 1 and self.sources[0].weight == 1:
            return rows
        width = max(len(of.source) for of in self.sources)
        return rows + [
            f"  {of.source:<{width}}  {show_count(of.tokens)} tokens x {of.weight:g} a pass: "
            f"{show_count(of.read)}, {of.read / max(1, self.pass_tokens):.0%}"
            for of in self.sources
        ]


@dataclass(frozen=True)
class Quote:
    """What `pocketlm plan` answers: the stages, where their inputs are there, and the price."""

    estimate: Estimate | None
    missing: str
    """Why there is no estimate."""
    price: Price

    def as_dict(self) -> dict[str, Any]:
        """The estimate's numbers, if any, and the price list."""
        table = self.estimate.as_dict() if self.estimate else {"missing": self.missing}
        return table | {"price": self.price.as_dict()}

    def lines(self) -> list[str]:
        """Both as a person reads them."""
        if self.estimate:
            return [*self.estimate.lines(), "", *self.price.lines()]
        return [*self.price.lines(), "", f"stages are not listed: {self.missing}"]


def quote(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    mfu: float = MFU,
    peak_flops: float = PEAK_FLOPS,
) -> Quote:
    """Estimate the stages and price the shape; writes nothing.

    A recipe with `planned_tokens` that says its shape and vocabulary in full is priced even where
    its parent, tokenizer or corpus cannot be read; any other raises as `estimate` does.
    """
    found, missing, shape = None, "", _own_shape(recipe)
    try:
        found = estimate(recipe, out=out)
        shape = found.shape
    except (CorpusError, ParentError) as error:
        if shape is None or recipe.train.planned_tokens is None:
            raise
        missing = str(error)
    held = round(found.pass_tokens) if found else 0
    tokens = recipe.train.planned_tokens or held
    parent = found.parent if found else None
    priced = price(
        shape, recipe.train, tokens=tokens, parent=parent, mfu=mfu, peak_flops=peak_flops
    )
    return Quote(found, missing, priced)


def estimate(recipe: Recipe, *, out: str | Path = "runs") -> Estimate:
    """Cost what `make` would still make, parents included; writes nothing."""
    store = Store(Path(out))
    rate, basis = _flops_per_s(store)
    steps = {(step.run, step.stage): step for step in plan(recipe, out=out)}
    costs: list[StepCost] = []
    shape = parent = None
    tokens = 0.0
    sources: tuple[SourceTokens, ...] = ()
    for one in make_chain(recipe):
        inputs, keys = resolve(one, store)
        parent = _parent_shape(inputs, shape)
        shape = _shape(one, inputs, store.find("design", keys["design"]), parent)
        seconds, tokens = _stage_seconds(one, inputs, (shape, parent), rate)
        sources = _sources(one, inputs)
        for stage in stages_of(one):
            step, expected = steps[one.name, stage], seconds[stage]
            costs.append(StepCost(step, 0.0 if step.reused else round(expected, 1)))
    assert shape is not None  # a chain holds the recipe itself
    pass_tokens = sum(of.read for of in sources)
    return Estimate(tuple(costs), shape, parent, tokens, pass_tokens, sources, basis)


def _sources(recipe: Recipe, inputs: Inputs) -> tuple[SourceTokens, ...]:
    weights = recipe.corpus.weights or {}
    return tuple(
        SourceTokens(source, num_bytes / _BYTES_PER_TOKEN, weights.get(source, 1.0))
        for source, num_bytes in inputs.corpus.survey.train_bytes.items()
    )


def _stage_seconds(
    recipe: Recipe, inputs: Inputs, shapes: tuple[Shape, Shape | None], rate: float
) -> tuple[dict[str, float], float]:
    """Seconds of each stage and tokens trained on, for a child and its parent."""
    shape, parent = shapes
    table, sizes = recipe.train, inputs.corpus.survey.num_bytes
    text_bytes = sizes["train"] + sizes["choose"]
    one_pass = sum(of.read for of in _sources(recipe, inputs))
    later = max(0, table.rounds - 1)
    trained = one_pass * (min(1, table.rounds) + later * table.keep_fraction)
    scored = later * one_pass if scores_blocks(table) else 0.0
    flops = flops_per_token(shape, table.seq_len)
    of_parent = one_pass * flops_per_token(parent or shape, table.seq_len)
    scored_bytes = min(recipe.evaluate.max_bytes, sizes["held-out"])
    seconds = {
        "counts": 3.0 + text_bytes / _COUNT_BYTES_PER_S,
        "compact": _FIXED_SECONDS["compact"],
        "design": _design_seconds(recipe, flops, rate),
        "tokens": text_bytes / _READ_BYTES_PER_S,
        "calibration": _calibration_seconds(recipe, parent or shape, rate),
        "inherit": _FIXED_SECONDS["inherit"],
        "teacher": 5.0 + of_parent / rate,
        "train": 5.0 + (flops * (3 * trained + scored) + parent_passes(table) * of_parent) / rate,
        # Two models, windows that overlap by half.
        "evaluate": _FIXED_SECONDS["evaluate"] + 4 * flops * scored_bytes / _BYTES_PER_TOKEN / rate,
        "export": _FIXED_SECONDS["export"] * len(recipe.export.formats),
    }
    return seconds, trained


def _calibration_seconds(recipe: Recipe, parent: Shape, rate: float) -> float:
    """Passes over the parent, and the steps of masks, which run it both ways."""
    table, seq_len = recipe.inherit, recipe.train.seq_len
    if recipe.start != "parent" or not needs_blocks(table):
        return 0.0
    passes = _PASSES * table.calibration_blocks
    if learns_masks(table):
        passes += 3 * table.mask_steps * BATCH_BLOCKS
    return 5.0 + flops_per_token(parent, seq_len) * passes * seq_len / rate


def _design_seconds(recipe: Recipe, flops: float, rate: float) -> float:
    """Rankers that time or train take most of the stage; others are arithmetic."""
    table = recipe.design
    seconds = _FIXED_SECONDS["design"]
    if not table.has_budget:
        return seconds
    if table.runtime != "roofline":
        seconds += _FIT_SECONDS
    if table.rank == "measured":
        seconds += _FIT_SECONDS / 2
    if table.rank == "proxy":
        seconds += 3 * flops * PROXY_PASSES * table.proxy_tokens / rate
    return seconds


def _shape(
    recipe: Recipe, inputs: Inputs, design_artifact: Artifact | None, parent: Shape | None
) -> Shape:
    """The child's shape; designed on the spot if need be. `parent` is one not made yet."""
    if design_artifact:
        return Shape(**json.loads(design_artifact.path("shape.json").read_text(encoding="utf-8")))
    vocab_size = recipe.compact.vocab_size
    if not isinstance(vocab_size, int):  # decided by counting: at most the parent's
        vocab_size = parent.vocab_size if parent else _num_tokens(inputs.tokenizer)
    return decide_shape(recipe, vocab_size, parent)


def _parent_shape(inputs: Inputs, before: Shape | None) -> Shape | None:
    """The parent's shape; `before` is that of one not made yet, None where there is none."""
    if inputs.parent is not None and inputs.parent.is_dir():
        return open_checkpoint(inputs.parent).shape
    return before


def _own_shape(recipe: Recipe) -> Shape | None:
    """The child's shape if the recipe alone decides it, but for the family of a parent."""
    table, vocab_size = recipe.design.shape, recipe.compact.vocab_size
    if table is None or not isinstance(vocab_size, int):
        return None
    if recipe.parent is not None and (table.head_dim is None or table.tied is None):
        return None  # these default to the parent's
    return decide_shape(recipe, vocab_size, None)


def _num_tokens(tokenizer: Path | TrainTokenizer) -> int:
    if isinstance(tokenizer, TrainTokenizer):
        return tokenizer.train
    return load_tokenizer(tokenizer).num_tokens


def _flops_per_s(store: Store) -> tuple[float, str]:
    rates = []
    for folder in sorted(store.folder.glob("train-*")):
        try:
            scores = Artifact(folder).scores
            rates.append(scores["flops"].value / scores["loop_seconds"].value)
        except (DamagedArtifact, KeyError, ZeroDivisionError):
            continue
    if rates:
        return median(rates), f"at the {show_count(median(rates))}FLOP/s of earlier runs"
    measured = load_device("this-machine").compute.fp32 / 2
    return measured, f"at half of this machine's fp32 rate, {show_count(measured)}FLOP/s"
