"""`pocketlm train` by several processes: torchrun starts them, rank 0 makes the artifact, the
others help it train.

    torchrun --nproc-per-node 8 -m pocketlm train recipe.toml

Everything before training is made by one process beforehand, with the usual command.
"""

from pathlib import Path

from pocketlm.artifact import Store
from pocketlm.choices import check_choices
from pocketlm.errors import RecipeError
from pocketlm.pipeline import make, plan, resolve
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import Recipe
from pocketlm.runs import Run
from pocketlm.steps.materials import Materials
from pocketlm.steps.weights import help_train


def train_together(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    redo: str | None = None,
    before: str = "pocketlm inherit RECIPE",
    progress: Progress = SILENT,
) -> Run | None:
    """Make the train artifact as one of the processes that torchrun started.

    Returns the run on rank 0 and None on the others. `before` is the command that makes all that
    training needs; `RecipeError` names it where that was not made.
    """
    check_choices(recipe)
    _check_only_train_is_left(recipe, Path(out), redo, before)
    from pocketlm.stages.train.distributed import joined

    with joined() as team:
        if team.rank:
            if team.of_first(False):  # what is sent is rank 0's answer
                _help(recipe, Store(Path(out)))
            return None
        run = make(recipe, out=out, until="train", redo=redo, progress=progress)
        if "train" in run.reused:
            team.of_first(False)  # else `train_step` told the others
        return run


def _check_only_train_is_left(recipe: Recipe, out: Path, redo: str | None, before: str) -> None:
    if redo not in (None, "train"):
        raise RecipeError(f"--redo {redo}: torchrun makes only train; run {before} --redo {redo}")
    after = ("train", "evaluate", "export")
    left = [
        step
        for step in plan(recipe, out=out)
        if not step.reused and not (step.run == recipe.name and step.stage in after)
    ]
    if left:
        raise RecipeError(
            f"{left[0].run}: {left[0].stage} is missing under {out}, and torchrun makes only "
            f"train; run {before} first"
        )


def _help(recipe: Recipe, store: Store) -> None:
    inputs, keys = resolve(recipe, store)
    found = {stage: store.find(stage, key) for stage, key in keys.items()}
    made = {stage: artifact for stage, artifact in found.items() if artifact}
    run = Materials(recipe=recipe, inputs=inputs, made=made, progress=SILENT)
    help_train(run, store.resume_folder(f"train-{keys['train']}"))
