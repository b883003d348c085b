"""ARC: questions of school science, an easy and a challenging set, three to five answers each.

Clark et al. 2018 (arXiv 1803.05457), test; examples come from dev. Rows: id, question, choices,
labels (A to E or 1 to 4), answer (a label); or as on the hub, `choices` of text and label, and
`answerKey`. The prompt of `cloze` is that of lm-evaluation-harness 0.4.13, tasks arc_easy and
arc_challenge.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate.items import Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import (
    ask,
    gold_of,
    no_instruction,
    options_of,
    text,
    value,
)


def _questions(name: str, split: str) -> Callable[[Iterable[Row]], Iterator[Question]]:
    def questions(rows: Iterable[Row]) -> Iterator[Question]:
        for row in rows:
            place, options = f"{split}/{text(row, 'id')}", options_of(row)
            choices = value(row, "choices")
            labels = choices["label"] if isinstance(choices, Mapping) else value(row, "labels")
            if len(labels) != len(options):
                raise CorpusError(f"{len(labels)} labels of {len(options)} choices")
            yield Question(
                id=place,
                part=name,
                cluster=place,
                text=text(row, "question"),
                options=options,
                gold=gold_of(text(row, "answer", "answerKey"), labels),
            )

    return questions


def _arc(name: str, title: str, published: int) -> Task:
    return Task(
        name=name,
        group="Language",
        in_paper=False,
        language="en",
        files=(f"{name}.test", name),
        example_files=(f"{name}.dev",),
        questions=_questions(name, "test"),
        examples=_questions(name, "dev"),
        forms=("cloze", "letters"),
        shots=0,
        metric="accuracy",
        render=ask("en"),
        instruction=no_instruction,
        source=f"Clark et al. 2018, arXiv 1803.05457, {title}, test; CC BY-SA 4.0",
        published=published,
    )


ARC_E = _arc("arc_e", "Easy", 2_376)
ARC_C = _arc("arc_c", "Challenge", 1_172)
