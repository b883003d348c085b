"""What `pocketlm show RUN RUN` prints: the second run's child held against the first's, paired."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.errors import DamagedArtifact, RecipeError
from pocketlm.runs import Run
from pocketlm.stages.evaluate.differences import (
    Differences,
    TaskDifference,
    Verdict,
    compare_records,
    verdict,
)
from pocketlm.stages.evaluate.records import CHILD_ITEMS, read_records
from pocketlm.stages.evaluate.resampling import Resampled
from pocketlm.statistics import Floats, Measured

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class TextDifference:
    """Bits per byte of held-out text both runs read, second minus first."""

    num_documents: int
    first: float
    second: float
    difference: Measured
    p: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """Two runs side by side; None where they share nothing of the kind, and why in `notes`."""

    first: str
    second: str
    text: TextDifference | None
    benchmarks: Differences | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as a JSON table."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for the screen."""
        return list(_lines(self))


def compare_runs(first: Run, second: Run) -> RunDifference:
    """Compare the children of two runs on common documents and common benchmark items.

    Raises `RecipeError` for a run without evaluation, `UserError` for benchmarks of other data or
    prompts, `DamagedArtifact` for files that cannot be read.
    """
    folders = [_evaluation(run) for run in (first, second)]
    notes = []
    text = _text(*(folder / "documents.parquet" for folder in folders))
    if text is None:
        notes.append("no held-out text in common: the runs split other corpora")
    without = [run.name for run, folder in zip((first, second), folders, strict=True)
               if not (folder / CHILD_ITEMS).is_file()]  # fmt: skip
    benchmarks = None
    if without:
        notes.append(f"no benchmark records in {' and '.join(without)}")
    else:
        benchmarks = compare_records(*(read_records(folder / CHILD_ITEMS) for folder in folders))
        for run, only in ((first, benchmarks.only_first), (second, benchmarks.only_second)):
            if only:
                notes.append(f"in {run.name} alone: {', '.join(only)}")
    return RunDifference(
        first=first.name, second=second.name, text=text, benchmarks=benchmarks, notes=tuple(notes)
    )


def _evaluation(run: Run) -> Path:
    if "evaluate" not in run.artifacts:
        raise RecipeError(f"run {run.name!r} has no evaluation; finish it with `pocketlm evaluate`")
    return run.artifacts["evaluate"].folder


def _text(first: Path, second: Path) -> TextDifference | None:
    """Bits per byte over the texts of both files; None where none is in both."""
    (hash_first, bits_first, bytes_first), (hash_second, bits_second, _) = (
        _documents(path) for path in (first, second)
    )
    _, at_first, at_second = np.intersect1d(
        hash_first, hash_second, assume_unique=True, return_indices=True
    )
    if not at_first.size:
        return None
    bits_first, bits_second = bits_first[at_first], bits_second[at_second]
    bytes_N = bytes_first[at_first]
    sums = {"difference": bits_second - bits_first, "bytes": bytes_N}
    drawn = Resampled(
        sums, np.arange(bytes_N.size), num_draws=RESAMPLES, rng=np.random.default_rng(0)
    )

    def of(sums: Any) -> Any:
        return sums["difference"] / sums["bytes"]

    difference, p = drawn.measure(of), drawn.p(of)
    return TextDifference(
        num_documents=bytes_N.size,
        first=float(bits_first.sum() / bytes_N.sum()),
        second=float(bits_second.sum() / bytes_N.sum()),
        difference=difference,
        p=p,
        verdict=verdict(difference.value, p, "lower"),
    )


def _documents(path: Path) -> tuple[Any, Floats, Floats]:
    """sha256 of each text once, its bits, its bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["text_sha256", "bytes", "child_bits"])
    except (OSError, pa.ArrowException) as error:
        raise DamagedArtifact(f"{path}: cannot be read ({error})") from None
    sha256, at = np.unique(np.array(table["text_sha256"].to_pylist(), dtype=str), return_index=True)
    bits_N, bytes_N = (
        table[name].to_numpy().astype(np.float64)[at] for name in ("child_bits", "bytes")
    )
    return sha256, bits_N, bytes_N


def _lines(found: RunDifference) -> Iterator[str]:
    yield f"A  {found.first}"
    yield f"B  {found.second}"
    if found.text is not None:
        text = found.text
        yield ""
        yield f"{'bits per byte':<14} {'texts':>6} {'A':>8} {'B':>8} {'B - A':>8}  " + _TAIL
        yield _row("held-out text", text.num_documents, (text.first, text.second),
                   text.difference, text.p, text.verdict, "8.4f")  # fmt: skip
    if found.benchmarks is not None:
        yield from _benchmark_lines(found.benchmarks)
    if found.notes:
        yield ""
        yield from found.notes


_TAIL = f"{'95 % interval':<20} {'p':>8}  verdict on B"


def _benchmark_lines(found: Differences) -> Iterator[str]:
    yield ""
    yield f"{'score, %':<14} {'items':>6} {'A':>8} {'B':>8} {'B - A':>8}  {_TAIL}"
    for task in found.tasks:
        scores = (100 * task.first, 100 * task.second)
        difference = _percent(task.difference)
        yield _row(task.task, task.num_items, scores, difference, task.p_holm, task.verdict, "8.2f")
    if found.paper is not None:
        num_tasks = sum(task.in_paper for task in found.tasks)
        judged = verdict(found.paper.value, found.paper_p, "higher")
        yield _row(f"mean of {num_tasks}", 0, (), _percent(found.paper), found.paper_p, judged,
                   "8.2f")  # fmt: skip
    yield ""
    yield f"{'right answers':<14} {'items':>6} {'':>8} {'':>8} {'B - A':>8}  {_TAIL}"
    for task in found.tasks:
        yield _row(task.task, task.num_items, (), task.bits_per_byte, task.bits_p_holm,
                   task.bits_verdict, "8.4f")  # fmt: skip
    yield ""
    yield f"score: accuracy under the normaliser {found.normaliser!r}, or ROUGE-1; the mean counts"
    yield "examinations by subject; right answers: bits per byte"
    yield f"p: Holm over {len(found.tasks)} tasks, exact McNemar, clustered t by passage, bootstrap"
    yield f"seen four times in five: {', '.join(map(_detectable, found.tasks))}"
    for task in found.tasks:
        if task.mcc is not None:
            yield f"Matthews correlation, B - A: {task.task} {task.mcc.value:+.3f}{_span(task.mcc)}"
    left_out = {task.task: task.left_out for task in found.tasks if task.left_out}
    if left_out:
        told = ", ".join(f"{count} of {task}" for task, count in left_out.items())
        yield f"left out, in one run alone or asked in other words: {told}"


def _detectable(task: TaskDifference) -> str:
    points = "none" if task.detectable is None else f"{100 * task.detectable:.1f}"
    return f"{task.task} {points}"


def _span(found: Measured) -> str:
    if found.low is None or found.high is None:
        return ""
    return f" ({found.low:+.3f} to {found.high:+.3f})"


def _percent(found: Measured) -> Measured:
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return Measured(value=100 * found.value, low=low, high=high)


def _row(
    name: str,
    count: int,
    scores: tuple[float, ...],
    difference: Measured,
    p: float,
    judged: str,
    form: str,
) -> str:
    shown = [f"{score:{form}}" for score in scores] or [" " * 8] * 2
    span = "none"
    if difference.low is not None and difference.high is not None:
        end = f"+{form.lstrip('8')}"
        span = f"{difference.low:{end}} to {difference.high:{end}}"
    said = "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    return (
        f"{name:<14} {count or '':>6} {' '.join(shown)} {difference.value:+{form}}  {span:<20} "
        f"{said:>8}  {judged}"
    )
