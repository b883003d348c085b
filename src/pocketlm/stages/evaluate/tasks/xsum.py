"""XSum: one sentence that says what a news article is about.

Narayan et al. 2018 (arXiv 1808.08745). Rows: document, summary. The prompt follows OpenCompass's;
the reference's bits per byte are scored beside ROUGE.
"""

from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Form, Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import no_instruction, text


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        yield Question(
            id=str(number),
            part="xsum",
            cluster=str(number),
            text=text(row, "document"),
            options=(),
            gold=-1,
            reference=text(row, "summary").strip(),
        )


def _render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
    asked = "Based on the previous text, provide a brief single summary:"
    return f"Document：{question.text}\n{asked}", (f" {question.reference}",)


XSUM = Task(
    name="xsum",
    group="Understanding",
    in_paper=True,
    language="en",
    files=("xsum.test1000", "xsum.test", "xsum"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("generation",),
    shots=0,
    metric="rouge",
    render=_render,
    instruction=no_instruction,
    source="Narayan et al. 2018, arXiv 1808.08745, test; the articles are the BBC's: research use",
    published=11_334,
)
