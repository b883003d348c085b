"""Records as arrays, so that a metric is a line of arithmetic over all items at once.

Shapes: N items, F choices of all items one after the other, C choices of one item.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketlm.errors import StageError
from pocketlm.stages.evaluate.items import Record
from pocketlm.stages.evaluate.rouge import rouge
from pocketlm.statistics import Floats, Ints

Words = NDArray[np.object_]
WORDS = ("task", "form", "item", "part", "cluster", "prompt_sha256", "written", "reference")
NUMBERS = ("gold", "context_tokens", "context_cut", "seam")
"""Fields of a record with one text, and with one whole number, an item."""
PER_CHOICE = ("nats_F", "tokens_F", "bytes_F", "characters_F")
"""Fields with one entry a choice; `counts_N` says whose."""
_FIELDS = {"nats_F": "nats", "tokens_F": "tokens", "bytes_F": "num_bytes",
           "characters_F": "num_characters"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Fields of `Record`, each as one array; `counts_N` choices an item, `rouge_N3` its ROUGE-1,
    ROUGE-2 and ROUGE-L, NaN where nothing was written."""

    task_N: Words
    form_N: Words
    item_N: Words
    part_N: Words
    cluster_N: Words
    gold_N: Ints
    counts_N: Ints
    nats_F: Floats
    tokens_F: Ints
    bytes_F: Ints
    characters_F: Ints
    context_tokens_N: Ints
    context_cut_N: Ints
    seam_N: Ints
    prompt_sha256_N: Words
    written_N: Words
    reference_N: Words
    rouge_N3: Floats

    def __post_init__(self) -> None:
        """Raise `StageError` for an item that no metric can read."""
        if (self.counts_N < 1).any():
            _refuse(self, int(np.argmax(self.counts_N < 1)), "has no choice")
        owner_F = np.repeat(np.arange(len(self)), self.counts_N)
        for wrong_F, why in (
            (~np.isfinite(self.nats_F), "has a log-likelihood that is not a number"),
            ((self.bytes_F < 1) | (self.characters_F < 1), "has an empty choice"),
        ):
            if wrong_F.any():
                _refuse(self, int(owner_F[np.argmax(wrong_F)]), why)
        for wrong_N, why in (
            ((self.gold_N < 0) | (self.gold_N >= self.counts_N), "has no such right choice"),
            ((self.counts_N < 2) & ~self.writes_N, "has one choice: nothing to choose"),
        ):
            if wrong_N.any():
                _refuse(self, int(np.argmax(wrong_N)), why)

    def __len__(self) -> int:
        return int(self.gold_N.size)

    @property
    def starts_N(self) -> Ints:
        """Place of each item's first choice in the flat arrays."""
        return np.cumsum(self.counts_N) - self.counts_N

    @property
    def gold_F(self) -> Ints:
        """Place of each item's right choice in the flat arrays, [N]."""
        return self.starts_N + self.gold_N

    @property
    def writes_N(self) -> NDArray[np.bool_]:
        """Items whose answer is written, not chosen."""
        return np.asarray(self.form_N == "generation", dtype=np.bool_)

    def take(self, index_N: Ints) -> "Columns":
        """The items at these places, in this order."""
        counts_N = self.counts_N[index_N]
        shift_N = self.starts_N[index_N] - (np.cumsum(counts_N) - counts_N)
        index_F = np.repeat(shift_N, counts_N) + np.arange(int(counts_N.sum()))
        values = {
            field.name: getattr(self, field.name)[index_F if field.name in PER_CHOICE else index_N]
            for field in fields(self)
        }
        return Columns(**values)

    def by_task(self) -> dict[str, "Columns"]:
        """Each task's items, tasks in the order they come first."""
        code_N, names = codes(self.task_N)
        return {name: self.take(np.flatnonzero(code_N == n)) for n, name in enumerate(names)}


def codes(values_N: Iterable[Any]) -> tuple[Ints, list[Any]]:
    """A number for each value, counted from 0 as they come, and the values behind them."""
    known: dict[Any, int] = {}
    numbers = [known.setdefault(value, len(known)) for value in values_N]
    return np.array(numbers, dtype=np.int64), list(known)


def from_records(records: Iterable[Record]) -> Columns:
    """The arrays of some records, written answers compared with their references.

    Raises `StageError` naming the item that cannot be read, and `UserError` where answers were
    written and rouge-score is not installed.
    """
    listed = list(records)
    _check(listed)
    values: dict[str, Any] = {
        name: np.array(
            [value for record in listed for value in getattr(record, own)],
            dtype=np.float64 if name == "nats_F" else np.int64,
        )
        for name, own in _FIELDS.items()
    }
    for name in NUMBERS:
        values[f"{name}_N"] = np.array([getattr(r, name) for r in listed], dtype=np.int64)
    for name in WORDS:
        values[f"{name}_N"] = _as_words([getattr(record, name) for record in listed])
    return Columns(
        **values,
        counts_N=np.array([len(record.nats) for record in listed], dtype=np.int64),
        rouge_N3=rouge([(record.written, record.reference) for record in listed]),
    )


def to_records(columns: Columns) -> list[Record]:
    """The records that the arrays came from."""
    bounds = [*columns.starts_N.tolist(), int(columns.counts_N.sum())]
    lists: dict[str, list[Any]] = {
        field.name: getattr(columns, field.name).tolist() for field in fields(columns)
    }
    records = []
    for n, (start, end) in enumerate(pairwise(bounds)):
        values: dict[str, Any] = {name: lists[f"{name}_N"][n] for name in (*WORDS, *NUMBERS)}
        for name, own in _FIELDS.items():
            values[own] = tuple(lists[name][start:end])
        records.append(Record(**values))
    return records


def _as_words(values: Sequence[str | None]) -> Words:
    """Texts as an array of Python objects, however long each is."""
    words_N = np.empty(len(values), dtype=np.object_)
    words_N[:] = values
    return words_N


def _check(records: Sequence[Record]) -> None:
    known: set[tuple[str, str]] = set()
    for record in records:
        if (record.task, record.item) in known:
            raise StageError(f"{record.task}, item {record.item}: recorded twice")
        known.add((record.task, record.item))
        if len({len(getattr(record, own)) for own in _FIELDS.values()}) > 1:
            raise StageError(f"{record.task}, item {record.item}: its tuples differ in length")


def _refuse(columns: Columns, at: int, why: str) -> None:
    raise StageError(f"{columns.task_N[at]}, item {columns.item_N[at]}: {why}")
