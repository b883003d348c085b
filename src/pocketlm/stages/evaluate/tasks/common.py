"""What the benchmarks share: values out of rows, right answers, and the two ways to ask.

Errors say what is wrong with a row; who reads the file adds where it stands.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate.items import Form, Question, Row

LETTERS = "ABCDEFGHIJ"
Language = Literal["en", "zh"]
# Chinese has no blank between the words of a prompt and an answer; a Latin letter has one in both
# (lm-evaluation-harness 0.4.13 joins context and choice by a blank in CMMLU and C-Eval too).
_ASK = {"en": "Question: ", "zh": "问题："}
_ANSWER = {"en": "Answer:", "zh": "答案："}
_BLANK = {"en": " ", "zh": ""}


def value(row: Row, *names: str) -> Any:
    """The first of some columns that a row has; raises `CorpusError` if it has none of them."""
    for name in names:
        if name in row:
            return row[name]
    needed = " or ".join(map(repr, names))
    raise CorpusError(f"no column {needed}; it has {', '.join(map(str, row))}")


def text(row: Row, *names: str) -> str:
    """The same as a text that is not blank; raises `CorpusError`."""
    return _checked(value(row, *names), names[0])


def optional_text(row: Row, name: str) -> str:
    """A text, or "" where the column is absent, empty or null; raises `CorpusError`."""
    return _checked(row[name], name) if row.get(name) else ""


def options_of(row: Row) -> tuple[str, ...]:
    """A question's answers: a list in `choices` or `options`, or columns A, B, C and so on.

    Equal answers stay, each at its place. Raises `CorpusError` for fewer than two or a blank one.
    """
    if "A" in row and "choices" not in row and "options" not in row:
        letters = [letter for letter in LETTERS if letter in row]
        return tuple(text(row, letter) for letter in letters)
    given = value(row, "choices", "options")
    if isinstance(given, Mapping):  # ARC's parquet: {"text": [...], "label": [...]}
        given = given.get("text")
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        raise CorpusError(f"choices are {given!r:.80}; a list of 2 to {len(LETTERS)} is needed")
    return tuple(_checked(option, "choices") for option in given)


def gold_of(answer: object, labels: Sequence[str]) -> int:
    """Place of the right answer, given as one of `labels` or as its place; raises `CorpusError`."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(labels):
        return answer
    if isinstance(answer, str) and answer.strip() in labels:
        return labels.index(answer.strip())
    places = f"0 to {len(labels) - 1}"
    raise CorpusError(f"answer {answer!r}; accepted: {', '.join(labels)}, or a place, {places}")


def labelled(label: object, places: Mapping[str, int]) -> int:
    """Place of a label by its name, whatever its case or type; raises `CorpusError`."""
    name = str(label).strip().lower()
    if name not in places:
        raise CorpusError(f"label {label!r}; accepted: {', '.join(places)}")
    return places[name]


def ask(language: Language) -> Callable[[Question, Form], tuple[str, tuple[str, ...]]]:
    """How most benchmarks are asked: passage, question, and a line the answer continues.

    `cloze` scores the answers' texts, `letters` lists them and scores their letters.
    """

    def render(question: Question, form: Form) -> tuple[str, tuple[str, ...]]:
        before = f"{question.passage}\n" if question.passage else ""
        if form == "letters":
            pairs = zip(LETTERS, question.options, strict=False)
            lines = [question.text, *(f"{letter}. {option}" for letter, option in pairs)]
            choices = tuple(f" {letter}" for letter in LETTERS[: len(question.options)])
            return before + "\n".join([*lines, _ANSWER[language]]), choices
        asked = f"{before}{_ASK[language]}{question.text}\n{_ANSWER[language]}"
        return asked, tuple(_BLANK[language] + option for option in question.options)

    return render


def no_instruction(question: Question, form: Form) -> str:
    """Nothing stands before the question."""
    return ""


def exam(split: str) -> Callable[[Iterable[Row]], Iterator[Question]]:
    """Questions of one split of an examination of many subjects; a row without split is of it."""

    def questions(rows: Iterable[Row]) -> Iterator[Question]:
        number: Counter[str] = Counter()
        for row in rows:
            if row.get("split", split) != split:
                continue
            subject, options = text(row, "subject"), options_of(row)
            place = f"{split}/{subject}/{number[subject]}"
            number[subject] += 1
            yield Question(
                id=place,
                part=subject,
                cluster=place,
                text=text(row, "question", "Question").strip(),
                options=options,
                gold=gold_of(value(row, "answer", "Answer"), LETTERS[: len(options)]),
            )

    return questions


def _checked(given: object, name: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise CorpusError(f"{name} is {given!r:.80}; a text that is not blank is needed")
    try:
        given.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON
        raise CorpusError(f"{name} holds half a character: {given!r:.80}") from None
    return given
