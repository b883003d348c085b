"""All tasks of one model, and their averages as the paper's table has them.

The paper's average is the plain mean of ten numbers; four of them, the examinations, are themselves
means over subjects, as in OpenCompass's summaries (naive_average; AX-b by accuracy, XSum by
ROUGE-1), with which the paper's table was made. The average over items weighs each task by its
items instead, as lm-eval does for groups. Tasks share no items, so their errors add in squares.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import StageError
from pocketlm.stages.evaluate.columns import Columns
from pocketlm.stages.evaluate.metrics import RESAMPLES, TaskScore, score_task
from pocketlm.stages.evaluate.provenance import Provenance
from pocketlm.statistics import Measured, normal_interval

GROUPS = ("Examination", "Knowledge", "Reasoning", "Understanding", "Language")
PAPER_TASKS = (
    "ceval", "cmmlu", "mmlu", "agieval", "boolq", "axb", "piqa", "eprstmt", "xsum", "c3",
)  # fmt: skip
"""In the order of the paper's table."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over tasks."""

    score: Measured
    num_tasks: int
    num_items: int
    chance: float
    majority: float


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """One model's tasks, each in the order of GROUPS, and their averages."""

    normaliser: str
    tasks: tuple[TaskScore, ...]
    groups: Mapping[str, Average]
    """Plain mean of a group's tasks."""
    paper: Average | None
    """Plain mean of those of the paper's ten tasks that are there; None without any."""
    by_item: Average | None
    """The same tasks, every item weighing the same."""
    missing: tuple[str, ...]
    """The paper's tasks that are not there: with any, `paper` is not comparable with its table."""


def score_all(
    columns: Columns,
    provenance: Provenance,
    *,
    normaliser: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Benchmarks:
    """Score every task; `normaliser` is the provenance's unless another is named.

    Raises `RecipeError` for an unknown normaliser, `StageError` for a task of unknown origin.
    """
    normaliser = normaliser or provenance.normaliser
    scored = []
    for task, own in columns.by_task().items():
        if task not in provenance.tasks:
            raise StageError(f"{task}: records without provenance")
        rng = np.random.default_rng(seed)  # each task's own: its interval depends on no other
        scored.append(
            score_task(
                task, own, provenance.tasks[task], normaliser=normaliser, rng=rng,
                resamples=resamples,
            )
        )  # fmt: skip
    tasks = sorted(scored, key=lambda task: (GROUPS.index(task.group), _place(task.task)))
    in_paper = [task for task in tasks if task.in_paper]
    there = {task.task for task in in_paper}
    return Benchmarks(
        normaliser=normaliser,
        tasks=tuple(tasks),
        groups={
            group: plain([task for task in tasks if task.group == group])
            for group in dict.fromkeys(task.group for task in tasks)
        },
        paper=plain(in_paper) if in_paper else None,
        by_item=by_item(in_paper) if in_paper else None,
        missing=tuple(task for task in PAPER_TASKS if task not in there),
    )


def plain(tasks: Sequence[TaskScore]) -> Average:
    """Every task weighs the same; each enters as the paper's table has it."""
    return _average(tasks, [task.in_table for task in tasks], [1 / len(tasks)] * len(tasks))


def by_item(tasks: Sequence[TaskScore]) -> Average:
    """Every item weighs the same."""
    total = sum(task.num_items for task in tasks)
    weights = [task.num_items / total for task in tasks]
    return _average(tasks, [task.score for task in tasks], weights)


def weighted(scores: Sequence[Measured], weights: Sequence[float]) -> Measured:
    """Weighted sum of independent numbers; no interval where one of them has none."""
    value = sum(weight * score.value for weight, score in zip(weights, scores, strict=True))
    squares = 0.0
    for weight, score in zip(weights, scores, strict=True):
        if score.error is None:
            return Measured(value=value)
        squares += (weight * score.error) ** 2
    return normal_interval(value, math.sqrt(squares))


def _average(
    tasks: Sequence[TaskScore], scores: Sequence[Measured], weights: Sequence[float]
) -> Average:
    pairs = list(zip(weights, tasks, strict=True))
    return Average(
        score=weighted(scores, weights),
        num_tasks=len(tasks),
        num_items=sum(task.num_items for task in tasks),
        chance=sum(weight * task.chance for weight, task in pairs),
        majority=sum(weight * task.majority for weight, task in pairs),
    )


def _place(task: str) -> int:
    return PAPER_TASKS.index(task) if task in PAPER_TASKS else len(PAPER_TASKS)
