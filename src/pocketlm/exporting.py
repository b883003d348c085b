"""One checkpoint as a folder for transformers, of a run that trains, was interrupted or is over."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from pocketlm.artifact import Artifact, Store
from pocketlm.choices import check_choices
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import DamagedArtifact, OutputError, RecipeError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child
from pocketlm.pipeline import resolve
from pocketlm.recipe import Recipe
from pocketlm.steps.weights import BEST

_CHECK_TEXTS = 64


def export_checkpoint(
    recipe: Recipe, which: str, to: Path, *, out: str | Path = "runs"
) -> dict[str, Any]:
    """Write the checkpoint `which` of the recipe's training to the new folder `to`, verified.

    `which`: `latest`, `best` (fewest bits per byte at `check_at`) or a step. Returns folder, step,
    bytes and what was verified. Raises `RecipeError` where there is no such checkpoint,
    `DamagedArtifact` where it does not match its manifest, `OutputError` for a folder in use.
    """
    from pocketlm.stages.export import export

    check_choices(recipe)
    if to.exists():
        raise OutputError(f"--to {to}: is there already; give a new folder")
    store = Store(Path(out))
    inputs, keys = resolve(recipe, store)
    step, child = _find(store, keys, which)
    lineage = {
        "recipe": recipe.name,
        "parent": recipe.parent_name or "none",
        "train key": f"{keys['train']}, step {step}",
    }
    beside = to.with_name(f".{to.name}.unfinished")
    exported = export(
        child,
        load_tokenizer(_needed(store, "compact", keys).path("tokenizer")),
        beside,
        formats=("huggingface",),
        check_texts=list(islice(inputs.corpus.texts("choose"), _CHECK_TEXTS)),
        lineage=lineage,
    )
    (file,) = exported.files
    (beside / file.path).rename(to)
    shutil.rmtree(beside)  # the card of all formats, of which there is one
    return {"folder": str(to), "step": step, "bytes": file.num_bytes, "verified": file.verified}


def _find(store: Store, keys: dict[str, str], which: str) -> tuple[int | str, Child]:
    """The step and the child; after training only the last and the best are left."""
    found = store.find("train", keys["train"])
    if found is None:
        return _in_training(store, keys, which)
    store.verify(found)
    if which == "latest" or (which == "best" and not found.path(BEST).is_dir()):
        return "last", load_child(found.folder)
    if which == "best":
        return "best", load_child(found.path(BEST))
    raise RecipeError(f"--checkpoint {which}: training is over, it has latest and best")


def _in_training(store: Store, keys: dict[str, str], which: str) -> tuple[int, Child]:
    from pocketlm.stages.train.checkpoint import load_newest, load_step, steps_in
    from pocketlm.stages.train.journal import best_of
    from pocketlm.stages.train.standing import child_of

    folder = store.resume_folder(f"train-{keys['train']}")
    there = steps_in(folder)
    if not there:
        raise RecipeError(f"no checkpoint in {folder}; the first comes a while after train began")
    if which not in ("latest", "best") and not which.isdecimal():
        raise RecipeError(
            f"--checkpoint {which}: latest, best or a step; it has {', '.join(map(str, there))}"
        )
    if which.isdecimal():
        found = load_step(folder, int(which))
    else:
        newest, damaged = load_newest(folder)
        if newest is None:
            raise DamagedArtifact(f"{folder}: none matches its manifest: {', '.join(damaged)}")
        found = newest
        best = best_of(newest.state["checks"])
        if which == "best" and best is None:
            raise RecipeError(
                "--checkpoint best: nobody has looked yet; [train] check_at says when"
            )
        if which == "best" and best is not None:
            found = load_step(folder, best)
    config = load_child(_needed(store, "inherit", keys).folder).config
    return int(found.state["step"]), child_of(found, config)


def _needed(store: Store, stage: str, keys: dict[str, str]) -> Artifact:
    found = store.find(stage, keys[stage])
    if found is None:
        raise RecipeError(f"{stage} is not made yet; run pocketlm train first")
    store.verify(found)
    return found
