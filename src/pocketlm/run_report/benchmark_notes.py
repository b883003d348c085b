"""benchmarks.json as values for a page: one line a task, child beside parent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pocketlm.errors import DamagedArtifact
from pocketlm.statistics import Measured

FORMAT = 1
"""Of benchmarks.json that is read here."""


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """One model on one task: as the table has it, and what stands below."""

    score: Measured
    corrected: Measured | None
    """Accuracy of which guessing is 0 and all right 1; None for written answers."""
    bits_per_byte: Measured
    mcc: Measured | None
    contexts_cut: int
    seams: int
    near_ties: int


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """One task, child beside parent."""

    task: str
    group: str
    asked: str
    """Form and examples."""
    num_items: int
    chance: float
    majority: float
    child: ModelScore
    parent: ModelScore | None = None
    difference: Measured | None = None
    verdict: str = ""
    bits_difference: Measured | None = None
    bits_verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class AverageLine:
    """A mean over tasks, child beside parent."""

    name: str
    num_items: int
    chance: float
    majority: float
    child: Measured
    parent: Measured | None
    difference: Measured | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkNotes:
    """What an evaluate artifact says about benchmarks."""

    tasks: Sequence[TaskLine]
    averages: Sequence[AverageLine]
    missing: Sequence[str]
    """The paper's tasks that were not run."""
    normaliser: str
    seam: str


def read_benchmarks(found: Mapping[str, Any], where: str) -> BenchmarkNotes:
    """The notes behind a parsed benchmarks.json; raises `DamagedArtifact` naming `where`."""
    if found.get("format") != FORMAT:
        raise DamagedArtifact(f"{where}: format {found.get('format')}, this program reads {FORMAT}")
    try:
        return _read(found)
    except (KeyError, TypeError) as error:
        raise DamagedArtifact(f"{where}: not the results of benchmarks ({error!r})") from None


def _read(found: Mapping[str, Any]) -> BenchmarkNotes:
    child, parent = found["models"]["child"], found["models"].get("parent")
    theirs = {row["task"]: row for row in parent["tasks"]} if parent else {}
    differences = found.get("difference") or {"tasks": [], "paper": None}
    apart = {row["task"]: row for row in differences["tasks"]}
    lines = [_task(row, theirs.get(row["task"]), apart.get(row["task"])) for row in child["tasks"]]
    averages = []
    if child["paper"]:
        count = child["paper"]["num_tasks"]
        for key, name in (("paper", f"mean of {count}"), ("by_item", "every item alike")):
            own, other = child[key], parent and parent[key]
            whole = differences["paper"] if key == "paper" else None
            averages.append(_average(name, own, other, whole))
    return BenchmarkNotes(
        tasks=lines, averages=averages, missing=child["missing"],
        normaliser=child["normaliser"], seam=child["seam"],
    )  # fmt: skip


def _task(
    row: Mapping[str, Any], other: Mapping[str, Any] | None, apart: Mapping[str, Any] | None
) -> TaskLine:
    difference = None
    if apart is not None:
        difference = apart["by_part" if row["group"] == "Examination" else "difference"]
    return TaskLine(
        task=row["task"],
        group=row["group"],
        asked=f"{row['form']}, {row['shots']}-shot",
        num_items=row["num_items"],
        chance=row["chance"],
        majority=row["majority"],
        child=_model(row),
        parent=_model(other) if other else None,
        difference=_measured(difference),
        verdict=apart["verdict"] if apart else "",
        bits_difference=_measured(apart["bits_per_byte"]) if apart else None,
        bits_verdict=apart["bits_verdict"] if apart else "",
    )


def _model(row: Mapping[str, Any]) -> ModelScore:
    return ModelScore(
        score=Measured(**row["in_table"]),
        corrected=_measured(row["corrected"]),
        bits_per_byte=Measured(**row["bits_per_byte"]),
        mcc=_measured(row["mcc"]),
        contexts_cut=row["contexts_cut"],
        seams=row["seams"],
        near_ties=row["near_ties"],
    )


def _average(
    name: str,
    own: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    difference: Mapping[str, Any] | None,
) -> AverageLine:
    return AverageLine(
        name=name,
        num_items=own["num_items"],
        chance=own["chance"],
        majority=own["majority"],
        child=Measured(**own["score"]),
        parent=Measured(**other["score"]) if other else None,
        difference=_measured(difference),
    )


def _measured(found: Mapping[str, Any] | None) -> Measured | None:
    return Measured(**found) if found else None
