"""BLiMP: of two sentences that differ in one point of grammar, which is English.

Warstadt et al. 2020 (arXiv 1912.00582). Rows: UID, pairID, sentence_good, sentence_bad. Also read
as published: `blimp/*.jsonl`, one file a set. The good sentence stands first in every second pair,
so that taking the first of two equals is right half the time. Seven pairs are twice the same
sentence; they stay, as in the published counts.
"""

from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Form, Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import gold_of, no_instruction, text, value


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    for row in rows:
        part, pair = text(row, "UID"), str(value(row, "pairID"))
        good, bad = text(row, "sentence_good"), text(row, "sentence_bad")
        gold = gold_of(pair[-1:], "0123456789") % 2
        yield Question(
            id=f"{part}/{pair}",
            part=part,
            cluster=f"{part}/{pair}",
            text="",
            options=(bad, good) if gold else (good, bad),
            gold=gold,
        )


def _render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
    return "", question.options


BLIMP = Task(
    name="blimp",
    group="Language",
    in_paper=False,
    language="en",
    files=("blimp",),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("continuation",),
    shots=0,
    metric="accuracy",
    render=_render,
    instruction=no_instruction,
    source="Warstadt et al. 2020, arXiv 1912.00582; github.com/alexwarstadt/blimp; CC BY 4.0",
    published=67_000,
    layout=("blimp/*.jsonl",),
)
