"""PIQA: which of two ways reaches a goal of everyday life.

Bisk et al. 2020 (arXiv 1911.11641), validation. Rows: goal, sol1, sol2, label (0: sol1). The prompt
of `cloze` is that of lm-evaluation-harness 0.4.13, task piqa.
"""

from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import ask, labelled, no_instruction, text, value


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        yield Question(
            id=str(number),
            part="piqa",
            cluster=str(number),
            text=text(row, "goal"),
            options=(text(row, "sol1"), text(row, "sol2")),
            gold=labelled(value(row, "label"), {"0": 0, "1": 1}),
        )


PIQA = Task(
    name="piqa",
    group="Reasoning",
    in_paper=True,
    language="en",
    files=("piqa.val", "piqa"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=ask("en"),
    instruction=no_instruction,
    source="Bisk et al. 2020, arXiv 1911.11641, validation; AFL 3.0",
    published=1_838,
)
