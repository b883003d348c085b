"""A model before all benchmarks: which questions, how they are asked, and what came out.

Every model of a run is asked the same: questions are picked by the hash of their ids, never by a
seed, and forms and examples do not depend on the model.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pocketlm.errors import CorpusError, RecipeError, did_you_mean
from pocketlm.method import pick
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.evaluate.choice import Reading, Scores, score_items
from pocketlm.stages.evaluate.columns import Columns, from_records
from pocketlm.stages.evaluate.find import (
    Benchmark,
    accepted_files,
    find_task_files,
    has_task_files,
    read_benchmark,
)
from pocketlm.stages.evaluate.items import Form, Item, Question, Record, Task
from pocketlm.stages.evaluate.metrics import NORMALISERS
from pocketlm.stages.evaluate.prompts import build_items
from pocketlm.stages.evaluate.provenance import Origin, Provenance, origin_of
from pocketlm.stages.evaluate.reader import max_context
from pocketlm.stages.evaluate.seam import SEAMS
from pocketlm.stages.evaluate.tasks import TASKS
from pocketlm.stages.evaluate.writing import write_items

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer

LETTERS_FROM = 1_000_000_000
"""Parameters from which letters say more than chance."""
_PACKAGES = ("pocketlm", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How benchmarks are asked; the same for every model that is compared."""

    form: Literal["cloze", "letters"] = "cloze"
    """Of tasks that have both."""
    items: int | None = None
    """Questions of a task at most; None: all."""
    shots: int | None = None
    """Examples before each question; None: the task's own number."""
    normaliser: str = "bytes"
    how: Reading
    more: Mapping[str, str] = field(default_factory=dict)
    """What else should be known with the records."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """sha256 of what answers."""

    tokenizer: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Records of all tasks, where they come from, and what reading them took."""

    columns: Columns
    provenance: Provenance
    tokens_read: int
    tokens_alone: int
    """Tokens it would have taken with every choice read from scratch."""


def check_asking(tasks: Sequence[str], normaliser: str, seam: str, *, where: str) -> None:
    """Raise `RecipeError` for the first name that is in no table; `where` begins the message."""
    for name in tasks:
        if name not in TASKS:
            raise RecipeError(f"{where}tasks: {name!r}: no such task; {did_you_mean(name, TASKS)}")
    pick(NORMALISERS, normaliser, f"{where}normaliser")
    pick(SEAMS, seam, f"{where}seam")


def tasks_in(folder: Path, names: Sequence[str]) -> tuple[Task, ...]:
    """The named tasks, or without names all whose files are in `folder`, in the order of TASKS.

    Raises `CorpusError` where a named one, or every one, is missing.
    """
    if names:
        wanted = tuple(task for name, task in TASKS.items() if name in names)
        for task in wanted:
            find_task_files(folder, task)
        return wanted
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    found = tuple(task for task in TASKS.values() if has_task_files(folder, task))
    if not found:
        some = next(iter(TASKS.values()))
        raise CorpusError(
            f"{folder}: no file of any benchmark, such as {accepted_files(some)}; "
            f"pocketlm doctor --eval {folder} lists all names"
        )
    return found


def read_benchmarks(folder: Path, names: Sequence[str]) -> dict[str, Benchmark]:
    """Questions and examples of the tasks in a folder; raises `CorpusError`, with file and row."""
    return {task.name: read_benchmark(folder, task) for task in tasks_in(folder, names)}


def ask(
    network: "PreTrainedModel",
    tokenizer: "Tokenizer",
    benchmarks: Mapping[str, Benchmark],
    asking: Asking,
    identity: Identity,
    *,
    progress: Progress = SILENT,
) -> Answered:
    """Ask one model everything. Raises `StageError` with task and item for what cannot be scored,
    `CorpusError` where examples are missing."""
    how = replace(asking.how, most_tokens=max_context(network))
    records: list[Record] = []
    origins: dict[str, Origin] = {}
    read = alone = 0
    for name, benchmark in benchmarks.items():
        task = TASKS[name]
        form, shots = form_of(task, asking.form), shots_of(task, asking.shots)
        items = items_of(task, benchmark, asking)
        with progress.stage(name):
            scores = _answers(form)(network, tokenizer, items, how=how, progress=progress)
        records += scores.records
        read, alone = read + scores.tokens_read, alone + scores.tokens_alone
        origins[name] = origin_of(task, form=form, shots=shots, data=benchmark.sha256)
    provenance = Provenance(
        tasks=origins,
        tokenizer=identity.tokenizer,
        weights=identity.weights,
        seam=asking.how.seam,
        normaliser=asking.normaliser,
        versions={package: version(package) for package in _PACKAGES},
        more={
            "context": str(asking.how.context_tokens),
            "items": str(asking.items or "all"),
            **asking.more,
        },
    )
    return Answered(
        columns=from_records(records),
        provenance=provenance,
        tokens_read=read,
        tokens_alone=alone,
    )


def items_of(task: Task, benchmark: Benchmark, asking: Asking) -> list[Item]:
    """What `ask` asks of one task; raises `CorpusError` where examples are missing."""
    form, shots = form_of(task, asking.form), shots_of(task, asking.shots)
    questions = some_of(benchmark.questions, asking.items, task.name)
    return list(build_items(task, questions, benchmark.examples, form=form, shots=shots))


def form_of(task: Task, wanted: str) -> Form:
    """The wanted form where the task has it, else its own first."""
    return next((form for form in task.forms if form == wanted), task.forms[0])


def shots_of(task: Task, wanted: int | None) -> int:
    """The wanted number of examples; 0 for tasks that have none to give."""
    if task.examples is None:
        return 0
    return task.shots if wanted is None else wanted


def some_of(questions: Sequence[Question], at_most: int | None, task: str) -> Sequence[Question]:
    """`at_most` of the questions, those with the smallest hashes, in the file's order."""
    if at_most is None or at_most >= len(questions):
        return questions
    hashes = [hashlib.sha256(f"{task}\0{question.id}".encode()).digest() for question in questions]
    chosen = sorted(range(len(questions)), key=hashes.__getitem__)[:at_most]
    return [questions[place] for place in sorted(chosen)]


def _answers(form: Form) -> Callable[..., Scores]:
    return write_items if form == "generation" else score_items
