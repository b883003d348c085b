"""The six stages of a run: what each needs, what can be reused, what is made.

    compact -> design -> (tokens) -> inherit -> train -> evaluate, export

`tokens` is the corpus in the child's vocabulary; it belongs to no stage and to several.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pocketlm.artifact import Artifact, Score, Store, key_of, write_atomically
from pocketlm.choices import check_choices
from pocketlm.errors import OutputError, RecipeError
from pocketlm.hardware import resolve_hardware
from pocketlm.inputs import Inputs, check_parent, find_inputs, max_positions
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import ParentRecipe, Recipe, load_recipe
from pocketlm.stages import STAGES, VERSIONS

NEEDS: dict[str, tuple[str, ...]] = {
    "compact": (),
    "design": ("compact",),
    "tokens": ("compact",),
    "inherit": ("compact", "design"),
    "train": ("inherit", "tokens"),
    "evaluate": ("train",),
    "export": ("train",),
}
_ORDER = tuple(NEEDS)
_MAX_GENERATIONS = 8


@dataclass(frozen=True)
class Run:
    """A run on disk: its recipe, its artifacts, its numbers."""

    name: str
    folder: Path
    recipe: Recipe
    artifacts: Mapping[str, Artifact]
    reused: frozenset[str] = frozenset()
    """Stages this call found instead of making them."""

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Evaluation's scores by their names, the other stages' as `stage.name`."""
        scores: dict[str, Score] = {}
        for stage, artifact in self.artifacts.items():
            prefix = "" if stage == "evaluate" else f"{stage}."
            scores |= {f"{prefix}{name}": score for name, score in artifact.scores.items()}
        return scores


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
    stages = _stages_until(until)
    if redo is not None and _position(redo) >= len(stages):
        raise RecipeError(f"--redo {redo}: {until} ends before it; make up to {redo} or further")
    store = Store(Path(out))
    inputs, keys = resolve(recipe, store)
    store.open_for_writing()
    made = _claim(store, recipe, keys)
    if isinstance(recipe.parent, ParentRecipe):
        make(_parent_recipe(recipe), out=out, progress=progress)
    fresh: set[str] = set()
    for stage in stages:
        found = store.find(stage, keys[stage])
        # Made from something that this call made again, or asked for.
        again = stage == redo or not fresh.isdisjoint(NEEDS[stage])
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
        _record(store, recipe, made)
    run = _record(store, recipe, made)
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
    for stage in _ORDER:
        there = store.find(stage, keys[stage]) is not None
        reused = there and all(steps[need].reused for need in NEEDS[stage])
        steps[stage] = Step(recipe.name, stage, keys[stage], reused)
    return before + tuple(steps.values())


def resolve(recipe: Recipe, store: Store) -> tuple[Inputs, dict[str, str]]:
    """What the recipe takes from outside, and the key of every artifact; reads, never writes."""
    parent_keys = None
    if isinstance(recipe.parent, ParentRecipe):
        _, parent_keys = resolve(_parent_recipe(recipe), store)
    inputs = find_inputs(recipe, store, parent_keys)
    return inputs, stage_keys(recipe, inputs)


def open_run(name: str, *, out: str | Path = "runs") -> Run:
    """The run of that name under `out`, as far as it was made; raises `RecipeError`."""
    folder = Path(name) if (Path(name) / "run.json").is_file() else Path(out) / "runs" / name
    if not (folder / "run.json").is_file():
        runs = Path(out) / "runs"
        known = sorted(p.name for p in runs.iterdir()) if runs.is_dir() else []
        raise RecipeError(f"no run {name!r} under {runs}; it has {', '.join(known) or 'none'}")
    table, recipe = _read_run(folder)
    store = Store(folder.parent.parent)
    found = {stage: store.find(stage, key) for stage, key in table["keys"].items()}
    artifacts = {stage: artifact for stage, artifact in found.items() if artifact}
    return Run(recipe.name, folder, recipe, artifacts)


def make_chain(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipes `make` goes through: parents of parents first, `recipe` last."""
    if isinstance(recipe.parent, ParentRecipe):
        return (*make_chain(_parent_recipe(recipe)), recipe)
    return (recipe,)


def stage_keys(recipe: Recipe, inputs: Inputs) -> dict[str, str]:
    """The key of every artifact: all that decides its numbers, nothing that does not."""
    hardware = resolve_hardware(recipe.train.dtype)
    train = recipe.train.model_dump(exclude={"checkpoint_seconds", "dtype"})
    draws = recipe.start != "parent" or recipe.inherit.neurons == "random"
    own: dict[str, Any] = {
        "compact": {"tokenizer": inputs.tokenizer_key, "corpus": inputs.corpus_key},
        "design": {"parent": inputs.parent_key, "family": recipe.family},
        "tokens": {"corpus": inputs.corpus_key},
        "inherit": {"parent": inputs.parent_key, "start": recipe.start,
                    "seed": recipe.seed if draws else None,
                    "positions": None if inputs.parent else max_positions(recipe)},
        "train": {"seed": recipe.seed, "device": hardware.device, "dtype": hardware.dtype,
                  "table": train},
        "evaluate": {"parent": inputs.parent_key, "corpus": inputs.corpus_key,
                     "seed": recipe.seed, "context": recipe.train.seq_len},
        "export": {"name": recipe.name, "parent": recipe.parent_name},
    }  # fmt: skip
    keys: dict[str, str] = {}
    for stage in _ORDER:
        table = getattr(recipe, stage).model_dump() if stage in STAGES else {}
        parts = {"stage": stage, "version": VERSIONS[stage], "table": table, **own[stage]}
        keys[stage] = key_of(parts | {"needs": [keys[need] for need in NEEDS[stage]]})
    return keys


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
    run = Materials(recipe=recipe, inputs=inputs, made=made, progress=progress)
    described = {
        "version": VERSIONS[stage],
        "table": getattr(recipe, stage).model_dump() if stage in STAGES else {},
        "seed": recipe.seed,
        "inputs": {need: made[need].folder.name for need in NEEDS[stage]},
        "outside": {"corpus": inputs.corpus_key, "parent": inputs.parent_key},
    }
    with progress.stage(stage):
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


def _claim(store: Store, recipe: Recipe, keys: Mapping[str, str]) -> dict[str, Artifact]:
    """What the run of this name has finished; raises `OutputError` if it is another recipe's."""
    folder = store.out / "runs" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").is_file():
        return {}
    table, theirs = _read_run(folder)
    done = {stage: keys.get(stage) == key for stage, key in table["keys"].items()}
    # A recipe mended after an error has finished nothing that its new form contradicts.
    if not all(done.values()):
        differing = _first_difference(
            theirs.model_dump(mode="json"), recipe.model_dump(mode="json")
        )
        if differing:
            raise OutputError(
                f"{folder} was made by another recipe ({differing}); give this one its own name "
                f"with --set name=..., or delete that folder"
            )
    found = {stage: store.find(stage, keys[stage]) for stage, same in done.items() if same}
    return {stage: artifact for stage, artifact in found.items() if artifact}


def _read_run(folder: Path) -> tuple[dict[str, Any], Recipe]:
    try:
        table = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {"keys": dict(table["keys"])}, Recipe.model_validate(table["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(
            f"{folder / 'run.json'}: damaged, or of another version; delete that folder, finished "
            "stages are kept in the store"
        ) from None


def _first_difference(theirs: Any, ours: Any, where: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            below = _first_difference(theirs.get(key), ours.get(key), f"{where}{key}.")
            if below:
                return below
        return ""
    return "" if theirs == ours else f"{where.rstrip('.')} is {theirs!r} there, {ours!r} here"


def _record(store: Store, recipe: Recipe, made: Mapping[str, Artifact]) -> Run:
    """Write the run's folder: links to its artifacts and run.json, only where they differ."""
    folder = store.out / "runs" / recipe.name
    artifacts = {stage: made[stage] for stage in _ORDER if stage in made}
    run = Run(recipe.name, folder, recipe, artifacts)
    for stage, artifact in artifacts.items():
        _link(folder, stage, artifact)
    table = {
        "recipe": recipe.model_dump(mode="json"),
        "keys": {stage: artifact.key for stage, artifact in artifacts.items()},
        "scores": {name: vars(score) for name, score in run.scores.items()},
    }
    path, text = folder / "run.json", json.dumps(table, indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
    return run


def _link(folder: Path, stage: str, artifact: Artifact) -> None:
    """`1-compact -> ../../store/compact-KEY`, so that a person finds the files."""
    name = f"{STAGES.index(stage) + 1}-{stage}" if stage in STAGES else stage
    link, target = folder / name, Path("..", "..", "store", artifact.folder.name)
    if link.is_symlink() and link.readlink() == target:
        return
    beside = folder / f".{name}.{os.getpid()}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, link)
