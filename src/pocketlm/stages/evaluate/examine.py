"""What benchmarks a folder holds: the part of `pocketlm doctor --eval DIR`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pocketlm.errors import CorpusError
from pocketlm.finding import Finding
from pocketlm.stages.evaluate.find import Benchmark, find_task_files, read_benchmark
from pocketlm.stages.evaluate.items import Task
from pocketlm.stages.evaluate.tasks import TASKS

_SHOWN_FILES = 3


def examine_benchmarks(folder: Path) -> tuple[Finding, ...]:
    """One finding a benchmark: `eval boolq`, with counts and checksums or what is missing.

    `missing` is a file of the paper's ten that is not there, or one that cannot be used. Raises
    `CorpusError` where there is no such folder.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; give the one the benchmarks' files are in")
    return tuple(_examine(folder, task) for task in TASKS.values())


def _examine(folder: Path, task: Task) -> Finding:
    name = f"eval {task.name}"
    try:
        find_task_files(folder, task)
    except CorpusError as error:
        text = f"{error}; from: {task.source}"
        return Finding(name, "missing" if task.in_paper else "advice", text)
    try:
        benchmark = read_benchmark(folder, task)
    except CorpusError as error:
        return Finding(name, "missing", str(error))
    whole = task.published in (0, len(benchmark.questions))
    return Finding(name, "ok" if whole else "advice", _summary(task, benchmark))


def _summary(task: Task, benchmark: Benchmark) -> str:
    found, published = len(benchmark.questions), task.published
    if published:
        compared = "as published" if found == published else f"published: {published:,}"
        counts = [f"{found:,} questions ({compared})"]
    else:
        counts = [f"{found:,} questions"]
    if task.examples:
        counts.append(f"{len(benchmark.examples):,} examples")
    counts += [f"{count:,} left out: {why}" for why, count in benchmark.left_out.items()]
    return "; ".join([*counts, _checksums(benchmark.sha256)])


def _checksums(sha256: Mapping[str, str]) -> str:
    """Each file's, or of very many files that of the list of them."""
    lines = [f"{digest}  {name}" for name, digest in sha256.items()]
    if len(lines) <= _SHOWN_FILES:
        return "; ".join(f"sha256 {line}" for line in lines)
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    return f"{len(lines)} files, sha256 of their sha256sum list {digest}"
