"""BoolQ: yes or no about a passage of Wikipedia.

Clark et al. 2019 (arXiv 1905.10044), in SuperGLUE's form (Wang et al. 2019, arXiv 1905.00537).
Rows: question, passage, label (true or false, as text, number or truth value), idx if there is one;
the first release's `answer` is read for `label`. The prompt is that of lm-evaluation-harness
0.4.13, task boolq.
"""

import hashlib
from collections.abc import Iterable, Iterator

from pocketlm.stages.evaluate.items import Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import ask, labelled, no_instruction, text, value

_LABELS = {"false": 0, "true": 1, "0": 0, "1": 1}


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    for number, row in enumerate(rows):
        passage = text(row, "passage")
        yield Question(
            id=str(row.get("idx", number)),
            part="boolq",
            cluster=hashlib.sha256(passage.encode()).hexdigest()[:16],
            passage=passage,
            text=f"{text(row, 'question')}?",
            options=("no", "yes"),
            gold=labelled(value(row, "label", "answer"), _LABELS),
        )


BOOLQ = Task(
    name="boolq",
    group="Knowledge",
    in_paper=True,
    language="en",
    files=("boolq.val", "boolq"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("cloze",),
    shots=0,
    metric="accuracy",
    render=ask("en"),
    instruction=no_instruction,
    source="Clark et al. 2019, arXiv 1905.10044, validation; CC BY-SA 3.0",
    published=3_270,
)
