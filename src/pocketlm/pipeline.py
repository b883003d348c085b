"""The six stages of a run: what each needs, what can be reused, what is made.

    (counts) -> compact -> design -> (tokens, calibration) -> inherit -> train -> evaluate, export

`counts` is the corpus in the parent's tokens, `tokens` the corpus in the child's, `calibration`
what the parent does on some of it and `teacher`, made only where a recipe stores it, what the
parent predicts of all of it; they belong to no stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketlm.artifact import Artifact, Store, key_of
from pocketlm.choices import check_choices
from pocketlm.errors import RecipeError
from pocketlm.hardware import Hardware, resolve_hardware
from pocketlm.inputs import Inputs, check_parent, find_inputs, max_positions
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import ParentRecipe, Recipe, load_recipe
from pocketlm.runs import Run, claim, record
from pocketlm.stages import NEEDS, STAGES, VERSIONS
from pocketlm.stages.export import check_formats
from pocketlm.stages.inherit.evidence import groups_for, learns_masks, needs_blocks
from pocketlm.stages.train.resample import DRAW, draws
from pocketlm.steps.benchmarks import benchmark_files

_ORDER = tuple(NEEDS)
_MAX_GENERATIONS = 8
_CHANGES_NO_NUMBER = frozenset({"checkpoint_seconds", "planned_tokens", "sinks"})
_MASK_KEYS = ("mask_steps", "mask_rate", "mask_weights")
# These decide only through something else in the key: the calibration, or hashes of files.
_UNREAD = {"inherit": {"calibration_blocks", *_MASK_KEYS}, "evaluate": {"data", "tasks"}}


@dataclass(frozen=True)
class Step:
    """One artifact of a plan."""

    run: str
    stage: str
    key: str
    reused: bool


def make(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    until: str = "export",
    redo: str | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Make what is missing of `recipe` under `out`, up to and including the stage `until`.

    `redo` names a stage to make again although it is there. Raises the errors of
    `pocketlm.errors`; whatever was finished stays and is reused by the next call.
    """
    check_choices(recipe)
    stages = [stage for stage in _stages_until(until) if stage in stages_of(recipe)]
    if redo is not None and _position(redo) > _position(until):
        raise RecipeError(f"--redo {redo}: {until} ends before it; make up to {redo} or further")
    store = Store(Path(out))
    inputs, keys = resolve(recipe, store)
    store.open_for_writing()
    made = claim(store, recipe, keys)
    if isinstance(recipe.parent, ParentRecipe):
        make(_parent_recipe(recipe), out=out, progress=progress)
    fresh: set[str] = set()
    for stage in stages:
        found = store.find(stage, keys[stage])
        # Made from something that this call made again, or asked for.
        again = stage == redo or not fresh.isdisjoint(needs_of(stage, recipe))
        if found and not again:
            store.verify(found)
            made[stage] = found
            continue
        about = (stage, recipe, inputs, made)
        made[stage], is_new = _build(
            store, keys, about, progress, again=again and found is not None
        )
        if is_new:
            fresh.add(stage)
        record(store, recipe, made)
    run = record(store, recipe, made)
    store.hashes.save()
    return replace(run, reused=frozenset(stages) - fresh)


def plan(recipe: Recipe, *, out: str | Path = "runs") -> tuple[Step, ...]:
    """What `make` would make and what it would reuse, parents first; nothing is written."""
    check_choices(recipe)
    store = Store(Path(out))
    before: tuple[Step, ...] = ()
    if isinstance(recipe.parent, ParentRecipe):
        before = plan(_parent_recipe(recipe), out=out)
    _, keys = resolve(recipe, store)
    steps: dict[str, Step] = {}
    for stage in stages_of(recipe):
        there = store.find(stage, keys[stage]) is not None
        reused = there and all(steps[need].reused for need in needs_of(stage, recipe))
        steps[stage] = Step(recipe.name, stage, keys[stage], reused)
    return before + tuple(steps.values())


def resolve(recipe: Recipe, store: Store) -> tuple[Inputs, dict[str, str]]:
    """What the recipe takes from outside, and the key of every artifact; reads, never writes."""
    parent_keys = None
    if isinstance(recipe.parent, ParentRecipe):
        _, parent_keys = resolve(_parent_recipe(recipe), store)
    inputs = find_inputs(recipe, store, parent_keys)
    return inputs, stage_keys(recipe, inputs, benchmark_files(recipe, store.hashes))


def make_chain(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipes `make` goes through: parents of parents first, `recipe` last."""
    if isinstance(recipe.parent, ParentRecipe):
        return (*make_chain(_parent_recipe(recipe)), recipe)
    return (recipe,)


def stage_keys(
    recipe: Recipe, inputs: Inputs, benchmarks: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, str]:
    """The key of every artifact: all that decides its numbers, nothing that does not.

    `benchmarks`: task -> file -> sha256 of what evaluate asks.
    """
    hardware = resolve_hardware(recipe.train.dtype)
    train = recipe.train.decisions(without=_CHANGES_NO_NUMBER | {"dtype"})
    at_random = recipe.start != "parent" or recipe.inherit.neurons == "random"
    by_body = recipe.compact.vocab_size == "auto" or recipe.compact.max_share is not None
    own: dict[str, Any] = {
        "counts": {"tokenizer": inputs.tokenizer_key, "corpus": inputs.corpus_key,
                   "sample": recipe.compact.sample_bytes},
        "compact": {"body": [recipe.design.decisions(), recipe.family, inputs.parent_key]
                    if by_body else None},
        "design": {"parent": inputs.parent_key, "family": recipe.family,
                   **_designed_by(recipe, inputs)},
        "tokens": {"corpus": inputs.corpus_key},
        "calibration": _calibration_parts(recipe, inputs),
        "inherit": {"parent": inputs.parent_key, "start": recipe.start,
                    "seed": recipe.seed if at_random else None,
                    "positions": None if inputs.parent else max_positions(recipe)},
        "teacher": _taught_by(recipe, inputs, hardware),
        "train": {"seed": recipe.seed, "device": hardware.device, "dtype": hardware.dtype,
                  "table": train, **_mixed_by(recipe), **_rate_by(recipe),
                  **({"draw": DRAW} if draws(recipe.train) else {})},
        "evaluate": {"parent": inputs.parent_key, "corpus": inputs.corpus_key,
                     "seed": recipe.seed, "context": recipe.train.seq_len,
                     **({"benchmarks": benchmarks} if benchmarks else {})},
        "export": {"name": recipe.name, "parent": recipe.parent_name},
    }  # fmt: skip
    keys: dict[str, str] = {}
    for stage in stages_of(recipe):
        unread = _UNREAD.get(stage, set())
        table = getattr(recipe, stage).decisions(without=unread) if stage in STAGES else {}
        parts = {"stage": stage, "version": VERSIONS[stage], "table": table, **own[stage]}
        keys[stage] = key_of(parts | {"needs": [keys[n] for n in needs_of(stage, recipe)]})
    return keys


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """The artifacts a recipe has, in the order of making."""
    stored = recipe.train.distils and recipe.train.distil_from == "stored"
    return _ORDER if stored else tuple(stage for stage in _ORDER if stage != "teacher")


def needs_of(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """What an artifact is made from. Masks are learned for one shape of child, so a calibration
    that holds some is made from the design too; any other serves every shape."""
    masked = stage == "calibration" and recipe.start == "parent" and learns_masks(recipe.inherit)
    taught = stage == "train" and "teacher" in stages_of(recipe)
    return (*NEEDS[stage], *(["design"] if masked else []), *(["teacher"] if taught else []))


def _designed_by(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """What else a ranking depends on: the device, a law's file, and for `proxy` its training."""
    table = recipe.design
    if not table.has_budget:
        return {}
    law = None if table.law is None else Path(table.law)
    proxy = table.rank == "proxy"
    return {
        "device": recipe.device,
        "seed": recipe.seed if proxy else None,
        "training": recipe.train.decisions(without=_CHANGES_NO_NUMBER) if proxy else None,
        "corpus": inputs.corpus_key if proxy else None,
        "law": law.read_text(encoding="utf-8") if law and law.is_file() else None,
    }


def _mixed_by(recipe: Recipe) -> dict[str, Any]:
    """Weights of sources, where there are any: they decide which blocks there are."""
    return {"weights": recipe.corpus.weights} if recipe.corpus.weights else {}


def _taught_by(recipe: Recipe, inputs: Inputs, hardware: Hardware) -> dict[str, Any]:
    """What decides the stored predictions; children of every shape and seed share them."""
    table = recipe.train
    return {
        "parent": inputs.parent_key,
        "blocks": [table.seq_len, table.document_mask],
        "kept": [table.distil_tokens, table.distil_temperature],
        "hardware": [hardware.device, hardware.dtype],
        **_mixed_by(recipe),
    }


def _rate_by(recipe: Recipe) -> dict[str, Any]:
    """The rule behind a rate that the recipe leaves open, where it is not the law itself."""
    table = recipe.train
    given = table.learning_rate is not None or table.reference_rate is not None
    return {} if given or recipe.start != "parent" else {"rate": "law/3"}


def _calibration_parts(recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """What decides the measurements; nothing where no method looks at text."""
    if recipe.start != "parent" or not needs_blocks(recipe.inherit):
        return {}
    table = recipe.inherit
    measured = {
        "parent": inputs.parent_key,
        "groups": groups_for(table),
        "blocks": [table.calibration_blocks, recipe.train.seq_len],
        **_mixed_by(recipe),
    }
    if not learns_masks(table):
        return measured
    read = {"layers", "neurons", "hidden", *_MASK_KEYS}
    return {**measured, "masks": table.model_dump(include=read), "seed": recipe.seed}


def _stages_until(until: str) -> tuple[str, ...]:
    return _ORDER[: _position(until) + 1]


def _position(stage: str) -> int:
    if stage not in _ORDER:
        raise RecipeError(f"no stage {stage!r}; stages are {', '.join(STAGES)}")
    return _ORDER.index(stage)


def _build(
    store: Store,
    keys: Mapping[str, str],
    about: tuple[str, Recipe, Inputs, Mapping[str, Artifact]],
    progress: Progress,
    *,
    again: bool,
) -> tuple[Artifact, bool]:
    from pocketlm.steps import STEPS, Materials

    stage, recipe, inputs, made = about
    check_parent(recipe, inputs)
    if inputs.parent is not None:
        parent = open_checkpoint(inputs.parent)
        family, config = parent.shape.family, parent.config
        check_formats(recipe.export.formats, family, config, layers_may_leave=True)
    run = Materials(recipe=recipe, inputs=inputs, made=made, progress=progress)
    described = {
        "version": VERSIONS[stage],
        "table": getattr(recipe, stage).model_dump() if stage in STAGES else {},
        "seed": recipe.seed,
        "inputs": {need: made[need].folder.name for need in needs_of(stage, recipe)},
        "outside": {"corpus": inputs.corpus_key, "parent": inputs.parent_key},
    }
    with progress.stage(stage), progress.task(stage, None, ""):
        return store.build(
            f"{stage}-{keys[stage]}",
            lambda files, resume: STEPS[stage](run, files, resume),
            described,
            again=again,
        )


def _parent_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the parent; raises `RecipeError` where recipes name each other in a circle."""
    assert isinstance(recipe.parent, ParentRecipe)
    parent = first = load_recipe(recipe.parent.recipe)
    for _ in range(_MAX_GENERATIONS):
        if not isinstance(parent.parent, ParentRecipe):
            if "huggingface" not in first.export.formats:
                raise RecipeError(f"{first.name}: a parent's recipe must export huggingface")
            return first
        parent = load_recipe(parent.parent.recipe)
    raise RecipeError(f"{recipe.name}: more than {_MAX_GENERATIONS} generations of parents")
