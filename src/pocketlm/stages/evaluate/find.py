"""Benchmarks out of the user's folder: which files, then questions and examples. No network."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.artifact import sha256_of
from pocketlm.corpus.rows import ENDINGS, KINDS, read_rows
from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate.items import Question, Row, Task


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """Files of one task, in the order they are read."""

    questions: tuple[Path, ...]
    examples: tuple[Path, ...]
    """Empty where there are none; the same as `questions` where they hold the examples too."""
    as_published: bool
    """They are those of the task's `layout`."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Each once."""
        return tuple(dict.fromkeys((*self.questions, *self.examples)))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One task's questions and examples, as they stand in the files."""

    questions: tuple[Question, ...]
    examples: tuple[Question, ...]
    left_out: Mapping[str, int]
    """Rows that cannot be scored, by reason."""
    sha256: Mapping[str, str]
    """Of each file read, by its path below the folder."""


@dataclass(frozen=True)
class _Placed:
    """A row and where it stands."""

    where: str
    row: Row


def find_task_files(folder: Path, task: Task) -> TaskFiles:
    """The files of a task in `folder`; raises `CorpusError` naming those that would be taken."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    named = _named(folder, task.files)
    questions = named or _published(folder, task)
    if not questions:
        raise CorpusError(f"{task.name}: {folder} has none of {accepted_files(task)}")
    if task.example_files:
        examples = _named(folder, task.example_files)
    else:
        examples = questions if task.examples else ()
    return TaskFiles(questions=questions, examples=examples, as_published=not named)


def has_task_files(folder: Path, task: Task) -> bool:
    """Whether a task's questions are in `folder`; raises `CorpusError` where they are twice."""
    return bool(_named(folder, task.files) or _published(folder, task))


def accepted_files(task: Task) -> str:
    """The names a task's questions may have, for messages."""
    kinds = f"{', '.join(KINDS[1:])}, each also .gz"
    names = [f"{name}{KINDS[0]}" for name in task.files]
    return f"{', '.join(names)} (or {kinds})" + "".join(f"; {glob}" for glob in task.layout)


def read_benchmark(folder: Path, task: Task) -> Benchmark:
    """Every question and example of a task; raises `CorpusError`, with file and row, for any row
    that cannot be used, for two questions of one id and for files without a question."""
    files = find_task_files(folder, task)
    rows = [*_rows(files.questions, task, files.as_published)]
    questions = _parsed(task.questions, rows)
    if not questions:
        splits = sorted({str(placed.row.get("split")) for placed in rows})
        raise CorpusError(
            f"{', '.join(map(str, files.questions[:3]))}: no question of {task.name} in "
            f"{len(rows)} rows (of split {', '.join(splits) or 'none'})"
        )
    twice = [name for name, count in Counter(q.id for q in questions).items() if count > 1]
    if twice:
        raise CorpusError(f"{files.questions[0]}: {len(twice)} ids stand twice: {twice[0]!r}, ...")
    return Benchmark(
        questions=questions,
        examples=_examples(task, files, rows),
        left_out=_left_out(task, rows),
        sha256={str(path.relative_to(folder)): sha256_of(path) for path in files.all},
    )


def _examples(task: Task, files: TaskFiles, rows: Sequence[_Placed]) -> tuple[Question, ...]:
    if task.examples is None:
        return ()
    if task.example_files:
        rows = [*_rows(files.examples, task, as_published=False)]
    elif any("split" not in placed.row for placed in rows):
        return ()  # all are questions: none may serve as an example
    return _parsed(task.examples, rows)


def _left_out(task: Task, rows: Sequence[_Placed]) -> Mapping[str, int]:
    if task.left_out is None:
        return {}
    reasons = Counter(task.left_out(placed.row) for placed in rows)
    return {reason: count for reason, count in reasons.items() if reason}


def _parsed(
    make: Callable[[Iterable[Row]], Iterator[Question]], rows: Sequence[_Placed]
) -> tuple[Question, ...]:
    """Questions out of rows; an error gets the place of the row that was read last."""
    where = ""

    def reading() -> Iterator[Row]:
        nonlocal where
        for placed in rows:
            where = placed.where
            yield placed.row

    try:
        return tuple(make(reading()))
    except CorpusError as error:
        raise CorpusError(f"{where}: {error}") from None


def _rows(paths: Sequence[Path], task: Task, as_published: bool) -> Iterator[_Placed]:
    for path in paths:
        said: dict[str, Any] = {}
        if as_published:
            split = path.parent.name
            said = {"split": split, "subject": path.stem.removesuffix(f"_{split}")}
        columns = task.columns if as_published else ()
        for number, row in enumerate(read_rows(path, columns=columns), 1):
            yield _Placed(f"{path}: row {number}", said | row)


def _named(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The file of the first name that is there; raises `CorpusError` if it is there twice."""
    for name in names:
        there = [path for end in ENDINGS if (path := folder / f"{name}{end}").is_file()]
        if len(there) > 1:
            found = " and ".join(path.name for path in there)
            raise CorpusError(f"{folder}: both {found}; keep one of them")
        if there:
            return (there[0],)
    return ()


def _published(folder: Path, task: Task) -> tuple[Path, ...]:
    return tuple(path for glob in task.layout for path in sorted(folder.glob(glob)))
