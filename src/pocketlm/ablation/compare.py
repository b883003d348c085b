"""Run what a study still lacks, then say which arms beat the baseline.

Runs go seed by seed, baseline first, so that a study cut short already compares whole seeds.
Arms share stages through the store; nothing here knows how.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pocketlm.ablation.records import Record, Records
from pocketlm.ablation.study import Study, recipe_key
from pocketlm.ablation.summary import Comparison, summarise
from pocketlm.artifact import key_of
from pocketlm.errors import Interrupted, RecipeError, UserError, did_you_mean
from pocketlm.recipe import Recipe

if TYPE_CHECKING:
    from pocketlm.estimate import Estimate
    from pocketlm.pipeline import Step
    from pocketlm.progress import Progress
    from pocketlm.runs import Run

Make = Callable[..., "Run"]
"""`pipeline.make`, or what stands in for it: (recipe, *, out, progress) -> Run."""
Plan = Callable[..., "tuple[Step, ...]"]
"""`pipeline.plan`, or what stands in for it: (recipe, *, out) -> steps."""
Cost = Callable[..., "Estimate"]
"""`estimate.estimate`, or what stands in for it: (recipe, *, out) -> Estimate."""


@dataclass(frozen=True)
class _Wanted:
    """A run the study asks for, and the record of the last attempt at exactly this run."""

    arm: str
    seed: int
    recipe: Recipe
    recipe_key: str
    inputs: str
    record: Record | None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.record is not None and self.record.error is None

    @property
    def seconds_before(self) -> float:
        """Time that failed attempts took: what they finished is reused."""
        return self.record.seconds if self.record is not None else 0.0


def compare(
    study: Study,
    *,
    out: Path,
    progress: "Progress",
    make: Make | None = None,
    plan: Plan | None = None,
) -> Comparison:
    """Make every run that has no valid record under `out`, one after the other, then compare.

    Every arm is planned before the first run starts, so that what a plan can refuse is refused for
    nothing. A run that fails is recorded and the others go on; the next call tries it again.
    `make` and `plan` default to the pipeline's. Raises `RecipeError` for an arm that cannot be
    planned or a score that runs do not have, `Interrupted` when stopped.
    """
    records = Records(out, study.name)
    missing = [run for run in _wanted(study, records, plan) if not run.finished]
    with progress.task(f"study {study.name}", float(len(missing)), "runs") as advance:
        for run in missing:
            advance(0, note=f"{run.arm}, seed {run.seed}")
            _make(run, records=records, progress=progress, make=make)
            _check_score(study, records.read(run.arm, run.seed))
            advance(1)
    return summarise(study, records)


def estimate_seconds(
    study: Study, *, out: Path, plan: Plan | None = None, cost: Cost | None = None
) -> float:
    """Seconds the missing runs should take; a stage that arms share counts once.

    Raises `RecipeError` as `compare` does. Nothing missing, nothing estimated.
    """
    missing = [run for run in _wanted(study, Records(out, study.name), plan) if not run.finished]
    if not missing:
        return 0.0
    cost_of = cost or _real_cost()
    seconds: dict[tuple[str, str], float] = {}
    for run in missing:
        for part in cost_of(run.recipe, out=out).steps:
            seconds[part.step.stage, part.step.key] = part.seconds
    return sum(seconds.values())


def _wanted(study: Study, records: Records, plan: Plan | None) -> Iterator[_Wanted]:
    """Every run of the study in the order it will be made; raises `RecipeError`."""
    inputs = {arm: _inputs(study, arm, records.out, plan) for arm in study.all_arms}
    for seed in study.seeds:
        for arm in study.all_arms:
            recipe = study.recipe(arm, seed)
            key = recipe_key(recipe)
            record = records.read(arm, seed)
            if record is not None:
                # A run of the arm as it was before the study changed keeps its name and its place.
                name = record.run if record.recipe == key else f"{recipe.name}-{key[:8]}"
                recipe = recipe.model_copy(update={"name": name})
            same = record is not None and (record.recipe, record.inputs) == (key, inputs[arm])
            yield _Wanted(arm, seed, recipe, key, inputs[arm], record if same else None)


def _inputs(study: Study, arm: str, out: Path, plan: Plan | None) -> str:
    """One key for what an arm takes from outside its recipe: corpus, parent, code, hardware.

    It is read off the keys of a plan; seeds do not enter, so one plan an arm is enough.
    """
    plan = plan or _pipeline().plan
    try:
        steps = plan(study.recipe(arm, 0), out=out)
    except UserError as error:
        raise RecipeError(f"arm {arm!r}: {error}") from None
    return key_of({"steps": [[step.stage, step.key] for step in steps]})


def _make(run: _Wanted, *, records: Records, progress: "Progress", make: Make | None) -> None:
    """Make one run and record what came of it."""
    make = make or _pipeline().make
    start = time.monotonic()
    made, error = None, None
    try:
        made = make(run.recipe, out=records.out, progress=progress)
    except Interrupted:
        raise
    except Exception as failure:  # one arm's failure is a result of the study, not its end
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    record = Record(
        arm=run.arm,
        seed=run.seed,
        run=run.recipe.name,
        recipe=run.recipe_key,
        inputs=run.inputs,
        seconds=run.seconds_before + time.monotonic() - start,
        scores=dict(made.scores) if made else {},
        error=error,
    )
    records.write(record, made.folder if made else None)


def _check_score(study: Study, record: Record | None) -> None:
    """A misspelt score is said after the first run, not after the last."""
    if record is not None and record.error is None and study.score not in record.scores:
        known = did_you_mean(study.score, record.scores)
        raise RecipeError(f"score = {study.score!r}: runs have no such score; {known}")


def _pipeline() -> ModuleType:
    """The pipeline, imported when a study first needs it: reading a study stays fast."""
    from pocketlm import pipeline

    return pipeline


def _real_cost() -> Cost:
    from pocketlm.estimate import estimate

    return estimate
