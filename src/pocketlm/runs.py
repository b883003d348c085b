"""A run's folder: run.json, links to its artifacts; its name belongs to one recipe."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pocketlm.artifact import Artifact, Score, Store, write_atomically
from pocketlm.errors import OutputError, RecipeError
from pocketlm.recipe import Recipe
from pocketlm.stages import NEEDS, STAGES


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


def claim(store: Store, recipe: Recipe, keys: Mapping[str, str]) -> dict[str, Artifact]:
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


def record(store: Store, recipe: Recipe, made: Mapping[str, Artifact]) -> Run:
    """Write the run's folder: links to its artifacts and run.json, only where they differ."""
    folder = store.out / "runs" / recipe.name
    artifacts = {stage: made[stage] for stage in NEEDS if stage in made}
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


def _first_difference(theirs: Any, ours: Any, where: str = "") -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            below = _first_difference(theirs.get(key), ours.get(key), f"{where}{key}.")
            if below:
                return below
        return ""
    return "" if theirs == ours else f"{where.rstrip('.')} is {theirs!r} there, {ours!r} here"
