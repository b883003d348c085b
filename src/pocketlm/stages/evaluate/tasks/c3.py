"""C3: questions about Chinese texts and dialogues, with two to four answers each.

Sun et al. 2020 (arXiv 1904.09679), dev. Rows: kind (mixed or dialogue), id of the text, context,
question, choices, label (a place). Questions with fewer answers stay as they are: padding them
with a copy of one, as some do, gives that answer two chances.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import (
    LETTERS,
    ask,
    gold_of,
    no_instruction,
    options_of,
    text,
    value,
)


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    number: Counter[str] = Counter()
    for row in rows:
        kind, options = text(row, "kind"), options_of(row)
        passage = f"{kind}/{value(row, 'id')}"
        yield Question(
            id=f"{passage}/{number[passage]}",
            part=kind,
            cluster=passage,
            passage=text(row, "context"),
            text=text(row, "question"),
            options=options,
            gold=gold_of(value(row, "label"), LETTERS[: len(options)]),
        )
        number[passage] += 1


C3 = Task(
    name="c3",
    group="Understanding",
    in_paper=True,
    language="zh",
    files=("c3.dev", "c3"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=ask("zh"),
    instruction=no_instruction,
    source="Sun et al. 2020, arXiv 1904.09679; github.com/nlpdata/c3, dev; non-commercial research",
    published=3_816,
)
