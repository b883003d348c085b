"""A study's answer: what its runs measured, arm by arm, against the baseline seed by seed."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.ablation import statistics
from pocketlm.ablation.records import Record, Records
from pocketlm.ablation.statistics import Difference, Verdict
from pocketlm.ablation.study import BASELINE, Study, recipe_key
from pocketlm.errors import RecipeError, did_you_mean
from pocketlm.statistics import bootstrap_interval, holm

BITS_PER_BYTE = "child.bits_per_byte"

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What came of one arm; None where nothing did."""

    name: str
    values: dict[int, float]
    """Seed -> score."""
    mean: float | None
    params: float | None
    seconds: float
    """Time its runs added, seeds together."""
    errors: tuple[str, ...]
    difference: Difference | None = None
    documents: Interval | None = None
    """Interval of the difference over documents, seeds averaged; bits per byte only."""
    p_holm: float | None = None
    verdict: Verdict | None = None
    """None for the baseline."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A study and its answer: the baseline first, then the arms in the study's order."""

    study: Study
    unit: str
    arms: tuple[Arm, ...]

    @property
    def baseline(self) -> Arm:
        """The arm the others are compared with."""
        return self.arms[0]


def summarise(study: Study, records: Records) -> Comparison:
    """Compare what is recorded; arms without runs stay empty. Raises `RecipeError` if the baseline
    ran but has no such score."""
    found = {arm: list(_valid(study, records, arm)) for arm in study.all_arms}
    unit = _unit(study, found[BASELINE])
    baseline = _arm(study, BASELINE, found[BASELINE])
    arms = [_arm(study, arm, found[arm]) for arm in study.arms]
    differences = [_difference(study, baseline, arm) for arm in arms]
    # An arm that could not be tested stays in the family: finishing it must not change the others.
    p_A = np.array([1.0 if d is None or d.p is None else d.p for d in differences])
    judged = [
        _judged(study, arm, difference, p_holm, _documents(study, baseline, arm, records))
        for arm, difference, p_holm in zip(arms, differences, holm(p_A).tolist(), strict=True)
    ]
    return Comparison(study=study, unit=unit, arms=(baseline, *judged))


def _valid(study: Study, records: Records, arm: str) -> Iterator[Record]:
    for seed in study.seeds:
        record = records.read(arm, seed)
        if record is not None and record.recipe == recipe_key(study.recipe(arm, seed)):
            yield record


def _unit(study: Study, baseline: Sequence[Record]) -> str:
    finished = [record for record in baseline if record.error is None]
    for record in finished:
        if study.score in record.scores:
            return record.scores[study.score].unit
    if finished:
        known = did_you_mean(study.score, finished[0].scores)
        raise RecipeError(f"score = {study.score!r}: the baseline has no such score; {known}")
    return ""


def _arm(study: Study, name: str, found: Sequence[Record]) -> Arm:
    values: dict[int, float] = {}
    errors = []
    for record in found:
        score = record.scores.get(study.score)
        if record.error is not None:
            errors.append(f"seed {record.seed}: {record.error}")
        elif score is None:
            errors.append(f"seed {record.seed}: it has no {study.score}")
        elif not math.isfinite(score.value):
            errors.append(f"seed {record.seed}: {study.score} is {score.value}")
        else:
            values[record.seed] = score.value
    params = [r.scores["child.params"].value for r in found if "child.params" in r.scores]
    return Arm(
        name=name,
        values=values,
        mean=float(np.mean(list(values.values()))) if values else None,
        params=float(np.mean(params)) if params else None,
        seconds=sum(record.seconds for record in found),
        errors=tuple(errors),
    )


def _difference(study: Study, baseline: Arm, arm: Arm) -> Difference | None:
    both = _both(study, baseline, arm)
    if not both:
        return None
    difference_S = np.array([arm.values[seed] - baseline.values[seed] for seed in both])
    return statistics.paired_difference(difference_S, alpha=study.alpha, num_arms=len(study.arms))


def _both(study: Study, baseline: Arm, arm: Arm) -> list[int]:
    """Seeds with which the arm and the baseline both finished."""
    return [seed for seed in study.seeds if seed in baseline.values and seed in arm.values]


def _judged(
    study: Study, arm: Arm, difference: Difference | None, p_holm: float, documents: Interval | None
) -> Arm:
    """The arm with its verdict; without a pair of runs it has failed."""
    if difference is None:
        return dataclasses.replace(arm, verdict="failed")
    corrected = None if difference.p is None else p_holm
    return dataclasses.replace(
        arm,
        difference=difference,
        documents=documents,
        p_holm=corrected,
        verdict=statistics.decide(difference, corrected, better=study.better, alpha=study.alpha),
    )


def _documents(study: Study, baseline: Arm, arm: Arm, records: Records) -> Interval | None:
    """Interval of the difference over the documents that all paired runs scored, seeds averaged."""
    if study.score != BITS_PER_BYTE:
        return None
    pairs = [
        (records.documents(arm.name, seed), records.documents(BASELINE, seed))
        for seed in _both(study, baseline, arm)
    ]
    read = [documents for pair in pairs for documents in pair if documents is not None]
    if not pairs or len(read) < 2 * len(pairs):
        return None
    shared_N = functools.reduce(np.intersect1d, [documents.sha256 for documents in read])
    if shared_N.size < 2:
        return None
    bits_N, bytes_N = np.zeros(shared_N.size), np.zeros(shared_N.size)
    for sign, documents in zip(itertools.cycle((1, -1)), read, strict=False):  # arm, baseline, ...
        at_N = np.searchsorted(documents.sha256, shared_N)  # both are sorted
        bits_N += sign * documents.bits[at_N] / len(pairs)
        bytes_N = documents.num_bytes[at_N]
    rng = np.random.default_rng(0)  # the same resamples for every arm, so the report is stable
    return bootstrap_interval(bits_N, bytes_N, alpha=study.alpha, rng=rng)
