"""Two models on the same items: which differences are more than noise.

Only items with the same prompt are compared, second model minus first, item by item (Miller 2024,
arXiv 2411.00640, section 4): never two intervals that overlap or do not. Accuracy is judged by the
exact McNemar test, by the clustered t test where questions share passages; bits per byte, ROUGE and
MCC by a paired bootstrap over passages. Holm holds each family, all tasks of one quantity.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pocketlm.errors import UserError
from pocketlm.stages.evaluate.averages import PAPER_TASKS, weighted
from pocketlm.stages.evaluate.columns import Columns, codes
from pocketlm.stages.evaluate.metrics import CELL, answers, headline, summed
from pocketlm.stages.evaluate.provenance import Origin, Provenance
from pocketlm.stages.evaluate.resampling import Resampled, Sums, mcc
from pocketlm.statistics import (
    ALPHA,
    Measured,
    clustered_mean,
    detectable,
    holm,
    mcnemar_p,
    mean_over_parts,
    normal_p,
    t_p,
)

RESAMPLES = 2000
Verdict = Literal["better", "worse", "not resolvable"]
Kept = tuple[Columns, Provenance]
"""A model's records and where they come from."""


@dataclass(frozen=True, kw_only=True)
class TaskDifference:
    """Second model minus first on the items of one task that both answered."""

    task: str
    group: str
    in_paper: bool
    quantity: Literal["accuracy", "ROUGE-1"]
    num_items: int
    num_clusters: int
    left_out: int
    """Items that one model alone has, or that were asked in other words."""
    first: float
    second: float
    """Both scores on the common items."""
    difference: Measured
    by_part: Measured
    """The same, subjects weighing alike."""
    only_first: int | None
    """Items the first alone gets right; None for ROUGE."""
    only_second: int | None
    p: float
    """Two-sided, before Holm."""
    mcc: Measured | None
    bits_per_byte: Measured
    """Of the right answers; less is better."""
    bits_p: float
    detectable: float | None = None
    """Difference that these items find four times in five, Holm included; None where the models
    never differ or one passage alone cannot tell."""
    p_holm: float = 1.0
    verdict: Verdict = "not resolvable"
    """What the second model is, held against the first."""
    bits_p_holm: float = 1.0
    bits_verdict: Verdict = "not resolvable"


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All tasks that both models have, in the paper's order, then by name."""

    normaliser: str
    tasks: tuple[TaskDifference, ...]
    paper: Measured | None
    """Mean difference over the paper's tasks among them, examinations by subject."""
    paper_p: float
    """Of that mean alone; it is in no family."""
    only_first: tuple[str, ...]
    """Tasks that the first model alone has."""
    only_second: tuple[str, ...]


def compare_records(
    first: Kept, second: Kept, *, normaliser: str | None = None, seed: int = 0
) -> Differences:
    """Compare two models task by task; `normaliser` is theirs unless another is named.

    Raises `UserError` where nothing can be compared: no common task, other data, another form,
    number of examples, seam or normaliser, or no prompt in common.
    """
    normaliser = _normaliser(first[1], second[1], normaliser)
    tasks_first, tasks_second = first[0].by_task(), second[0].by_task()
    common = [task for task in tasks_first if task in tasks_second]
    if not common:
        known = f"{', '.join(tasks_first)} and {', '.join(tasks_second)}"
        raise UserError(f"the two have no benchmark in common: {known}")
    found = [
        _compare(
            tasks_first[task],
            tasks_second[task],
            _same_origin(task, first[1].tasks[task], second[1].tasks[task]),
            normaliser=normaliser,
            rng=np.random.default_rng(seed),
        )
        for task in sorted(common, key=_place)
    ]
    judged = _judged(found)
    in_paper = [task.by_part if task.group == "Examination" else task.difference
                for task in judged if task.in_paper]  # fmt: skip
    paper = weighted(in_paper, [1 / len(in_paper)] * len(in_paper)) if in_paper else None
    return Differences(
        normaliser=normaliser,
        tasks=tuple(judged),
        paper=paper,
        paper_p=normal_p(paper.value, paper.error) if paper else 1.0,
        only_first=tuple(task for task in tasks_first if task not in tasks_second),
        only_second=tuple(task for task in tasks_second if task not in tasks_first),
    )


def verdict(difference: float, p: float, better: Literal["higher", "lower"]) -> Verdict:
    """A difference counts when its p, Holm's where there is a family, is below ALPHA."""
    if p >= ALPHA:
        return "not resolvable"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def _compare(
    all_first: Columns,
    all_second: Columns,
    origin: Origin,
    *,
    normaliser: str,
    rng: np.random.Generator,
) -> TaskDifference:
    first, second = _same_items(all_first, all_second)
    own_first, own_second = answers(first, normaliser), answers(second, normaliser)
    first_N, second_N = headline(first, own_first), headline(second, own_second)
    difference_N, writes = second_N - first_N, origin.form == "generation"
    cluster_N, clusters = codes(first.cluster_N)
    only_first, only_second = int((difference_N < 0).sum()), int((difference_N > 0).sum())
    sums = summed(first, own_first, origin, "first.")
    sums |= summed(second, own_second, origin, "second.")
    drawn = Resampled(sums, cluster_N, num_draws=RESAMPLES, rng=rng)
    tested = clustered_mean(difference_N, cluster_N)
    if writes:
        tested, p = drawn.measure(_rouge), drawn.p(_rouge)
    elif len(clusters) == len(first):
        p = mcnemar_p(only_first, only_second)
    else:
        p = t_p(tested.value, tested.error, len(clusters) - 1)
    return TaskDifference(
        task=first.task_N[0],
        group=origin.group,
        in_paper=origin.in_paper,
        quantity="ROUGE-1" if writes else "accuracy",
        num_items=len(first),
        num_clusters=len(clusters),
        left_out=len(all_first) + len(all_second) - 2 * len(first),
        first=float(first_N.mean()),
        second=float(second_N.mean()),
        difference=tested,
        by_part=mean_over_parts(difference_N, codes(first.part_N)[0], cluster_N),
        only_first=None if writes else only_first,
        only_second=None if writes else only_second,
        p=p,
        mcc=drawn.measure(_mcc) if f"first.{CELL}0000" in sums else None,
        bits_per_byte=drawn.measure(_bits),
        bits_p=drawn.p(_bits),
    )


def _rouge(sums: Sums) -> float:
    found: float = (sums["second.rouge1"] - sums["first.rouge1"]) / sums["first.items"]
    return found


def _bits(sums: Sums) -> float:
    found: float = (sums["second.bits"] - sums["first.bits"]) / sums["first.bytes"]
    return found


def _mcc(sums: Sums) -> float:
    found: float = mcc(f"second.{CELL}")(sums) - mcc(f"first.{CELL}")(sums)
    return found


def _judged(tasks: list[TaskDifference]) -> list[TaskDifference]:
    """The tasks with Holm's p, verdicts, and what could have been seen at all."""
    p_holm = holm(np.array([task.p for task in tasks])).tolist()
    bits_p_holm = holm(np.array([task.bits_p for task in tasks])).tolist()
    return [
        replace(
            task,
            p_holm=p,
            verdict=verdict(task.difference.value, p, "higher"),
            bits_p_holm=bits_p,
            bits_verdict=verdict(task.bits_per_byte.value, bits_p, "lower"),
            detectable=detectable(
                task.difference.error, task.num_clusters - 1, alpha=ALPHA / len(tasks)
            )
            if task.difference.error
            else None,
        )
        for task, p, bits_p in zip(tasks, p_holm, bits_p_holm, strict=True)
    ]


def _same_items(first: Columns, second: Columns) -> tuple[Columns, Columns]:
    """The items of both, in the first's order, whose prompts are the same."""
    place = {item: n for n, item in enumerate(second.item_N)}
    pairs = [(n, place[item]) for n, item in enumerate(first.item_N) if item in place]
    if pairs:
        at_N2 = np.array(pairs)
        same_N = first.prompt_sha256_N[at_N2[:, 0]] == second.prompt_sha256_N[at_N2[:, 1]]
        at_N2 = at_N2[np.asarray(same_N, dtype=np.bool_)]
        if at_N2.size:
            return first.take(at_N2[:, 0]), second.take(at_N2[:, 1])
    raise UserError(
        f"{first.task_N[0]}: none of {len(first)} and {len(second)} items has the same prompt in "
        "both; compare records of the same prompts"
    )


def _normaliser(first: Provenance, second: Provenance, named: str | None) -> str:
    """The one named, else that of both; raises `UserError` where they were scored differently."""
    for key in ("seam",) if named else ("seam", "normaliser"):
        ours, theirs = getattr(first, key), getattr(second, key)
        if ours != theirs:
            raise UserError(f"{key} = {ours!r} there, {theirs!r} here: not the same measurement")
    return named or first.normaliser


def _same_origin(task: str, first: Origin, second: Origin) -> Origin:
    for key in ("form", "shots"):
        ours, theirs = getattr(first, key), getattr(second, key)
        if ours != theirs:
            raise UserError(f"{task}: {key} = {ours!r} there, {theirs!r} here: other prompts")
    if first.data != second.data:
        raise UserError(f"{task}: the data differ ({_first_difference(first.data, second.data)})")
    return first


def _first_difference(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    name = next(n for n in (*first, *second) if first.get(n) != second.get(n))
    ours, theirs = (data.get(name, "none")[:12] for data in (first, second))
    return f"{name}: sha256 {ours} there, {theirs} here"


def _place(task: str) -> tuple[float, str]:
    return (PAPER_TASKS.index(task) if task in PAPER_TASKS else math.inf, task)
