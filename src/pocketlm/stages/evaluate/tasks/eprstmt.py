"""EPRSTMT: is a review of a shop's product good or bad, in Chinese.

Xu et al. 2021 (FewCLUE, arXiv 2107.07498), public test. Rows: sentence, label (Positive or
Negative), id if there is one. Examples: the few-shot dev set. The wording follows OpenCompass's
(情绪分类, 消极 or 积极), both answers of two characters.
"""

from collections.abc import Callable, Iterable, Iterator

from pocketlm.stages.evaluate.items import Form, Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import labelled, no_instruction, text, value


def _questions(split: str) -> Callable[[Iterable[Row]], Iterator[Question]]:
    def questions(rows: Iterable[Row]) -> Iterator[Question]:
        for number, row in enumerate(rows):
            place = f"{split}/{row.get('id', number)}"
            yield Question(
                id=place,
                part="eprstmt",
                cluster=place,
                text=text(row, "sentence"),
                options=("Negative", "Positive"),
                gold=labelled(value(row, "label"), {"negative": 0, "positive": 1}),
            )

    return questions


def _render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
    return f"内容：{question.text}\n情绪分类：", ("消极", "积极")


EPRSTMT = Task(
    name="eprstmt",
    group="Understanding",
    in_paper=True,
    language="zh",
    files=("eprstmt.test_public", "eprstmt"),
    example_files=("eprstmt.dev_few_all",),
    questions=_questions("test"),
    examples=_questions("dev"),
    forms=("cloze",),
    shots=0,
    metric="accuracy",
    render=_render,
    instruction=no_instruction,
    source="Xu et al. 2021, arXiv 2107.07498; github.com/CLUEbenchmark/FewCLUE; research use",
    published=610,
)
