"""AX-b: does one sentence follow from another; SuperGLUE's diagnostic set.

Wang et al. 2018 (GLUE, arXiv 1804.07461) and 2019 (SuperGLUE, arXiv 1905.00537), whose metric is
Matthews correlation: 58 % of the answers are no. Rows: sentence1, sentence2, label (entailment or
not_entailment, 0 or 1), idx if there is one. The question is worded after OpenCompass's.
"""

from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Form, Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import labelled, no_instruction, text, value

_LABELS = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        place = str(row.get("idx", number))
        yield Question(
            id=place,
            part="axb",
            cluster=place,
            passage=text(row, "sentence1"),
            text=text(row, "sentence2"),
            options=("entailment", "not_entailment"),
            gold=labelled(value(row, "label"), _LABELS),
        )


def _render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
    asked = "Is the sentence below entailed by the sentence above?"
    return f"{question.passage}\n{question.text}\n{asked}\nAnswer:", (" Yes", " No")


AXB = Task(
    name="axb",
    group="Reasoning",
    in_paper=True,
    language="en",
    files=("axb", "AX-b"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("cloze",),
    shots=0,
    metric="mcc",
    render=_render,
    instruction=no_instruction,
    source="Wang et al. 2019, arXiv 1905.00537, broad-coverage diagnostic; research use",
    published=1_104,
)
