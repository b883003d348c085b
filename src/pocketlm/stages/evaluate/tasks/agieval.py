"""AGI-Eval: admission and licence examinations in English and Chinese.

Zhong et al. 2023 (arXiv 2304.06364). Rows: task, passage, question, options ("(A)..."), label.
Also read as published: `agieval/*.jsonl`, one file an examination (its folder data/v1).
Scored are questions with one right answer. Left out, and counted: tasks to be solved in writing
(math, gaokao-mathcloze), questions with several right answers (jec-qa-kd, jec-qa-ca,
gaokao-physics, gaokao-mathqa), and all of sat-en-without-passage, which asks sat-en again without
the text that holds the answers. Prompts: ours; the letters before the options are taken off.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pocketlm.stages.evaluate.items import Form, Question, Row, Task
from pocketlm.stages.evaluate.tasks.common import (
    LETTERS,
    ask,
    gold_of,
    no_instruction,
    optional_text,
    options_of,
    text,
    value,
)

_CHINESE = ("gaokao-", "jec-qa-", "logiqa-zh")
_ENGLISH = ("gaokao-english",)


def _left_out(row: Row) -> str:
    if not row.get("options"):
        return "to be solved in writing"
    if len(_answers(row)) != 1:
        return "not one right answer"
    if text(row, "task", "subject") == "sat-en-without-passage":
        return "asked in sat-en with its passage"
    return ""


def _answers(row: Row) -> list[str]:
    """Letters of all right answers; the files have texts ("A", "A C") and lists."""
    label = value(row, "label")
    return re.findall("[A-Z]", "".join(label) if isinstance(label, list) else str(label or ""))


def _questions(rows: Iterable[Row]) -> Iterator[Question]:
    number: Counter[str] = Counter()
    for row in rows:
        task = text(row, "task", "subject")
        place = f"{task}/{number[task]}"
        number[task] += 1
        if _left_out(row):
            continue
        options = without_letters(options_of(row))
        passage = optional_text(row, "passage").strip()
        digest = hashlib.sha256(passage.encode()).hexdigest()[:16]
        yield Question(
            id=place,
            part=task,
            cluster=f"{task}/{digest}" if passage else place,
            passage=passage,
            text=text(row, "question").strip(),
            options=options,
            gold=gold_of(_answers(row)[0], LETTERS[: len(options)]),
        )


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options without their own letter: "(A)x", "A. x", "A．x"; "A x" if all of them have it.

    A letter goes only where it is the option's own, so that "A bird" as an answer stays whole; an
    option that is nothing but its letter stays too.
    """
    pairs = [*zip(LETTERS, (option.strip() for option in options), strict=False)]
    spaced = all(re.match(rf"{letter}\s", option) for letter, option in pairs)
    mark = r"\s" if spaced else r"[.．、]"
    forms = ((rf"([(（]{letter}[)）]|{letter}{mark})\s*", option) for letter, option in pairs)
    return tuple(re.sub(f"^{form}", "", option, count=1) or option for form, option in forms)


def _render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
    chinese = question.part.startswith(_CHINESE) and question.part not in _ENGLISH
    return ask("zh" if chinese else "en")(question, form)


AGIEVAL = Task(
    name="agieval",
    group="Examination",
    in_paper=True,
    language="en",
    files=("agieval_v1", "agieval"),
    example_files=(),
    questions=_questions,
    examples=None,
    forms=("cloze", "letters"),
    shots=0,
    metric="accuracy",
    render=_render,
    instruction=no_instruction,
    source="Zhong et al. 2023, arXiv 2304.06364; github.com/ruixiangcui/AGIEval, v1; MIT, each "
    "examination keeps its own licence",
    published=5_915,
    layout=("agieval/*.jsonl",),
    left_out=_left_out,
)
