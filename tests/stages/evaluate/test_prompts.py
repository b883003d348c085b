"""Prompts to the character, examples in order and never the question itself."""

import dataclasses

import pytest

from pocketlm.errors import CorpusError, RecipeError
from pocketlm.stages.evaluate.items import Item, Question
from pocketlm.stages.evaluate.prompts import build_items
from pocketlm.stages.evaluate.tasks import TASKS


def question(number: int, part: str = "old_ships", **changes) -> Question:
    plain = Question(
        id=f"test/{part}/{number}",
        part=part,
        cluster=f"{number}",
        text=f"What floats ({number})?",
        options=("iron", "cork", "iron", "lead"),
        gold=1,
    )
    return dataclasses.replace(plain, **changes)


def example(number: int, part: str = "old_ships") -> Question:
    return question(number, part, id=f"dev/{part}/{number}", gold=number % 4)


def one(name: str, asked: Question, *examples: Question, **options) -> Item:
    (item,) = build_items(TASKS[name], [asked], examples, **options)
    return item


def test_mmlu_letters_read_as_in_lm_eval() -> None:
    item = one("mmlu", question(9), example(0), example(1), form="letters", shots=1)
    listed = "A. iron\nB. cork\nC. iron\nD. lead\nAnswer:"
    assert item.context == (
        "The following are multiple choice questions (with answers) about old ships.\n\n"
        f"What floats (0)?\n{listed} A\n\nWhat floats (9)?\n{listed}"
    )
    assert item.choices == (" A", " B", " C", " D")
    assert item.places == (0, 1, 2, 3)


def test_mmlu_cloze_keeps_equal_choices() -> None:
    item = one("mmlu", question(9))
    assert item.form == "cloze"
    assert item.context.endswith("about old ships.\n\nQuestion: What floats (9)?\nAnswer:")
    assert item.choices == (" iron", " cork", " iron", " lead")


def test_cmmlu_letters_read_as_in_lm_eval() -> None:
    item = one("cmmlu", question(9, "agronomy"), example(1, "agronomy"), form="letters", shots=1)
    listed = "A. iron\nB. cork\nC. iron\nD. lead\n答案："
    assert item.context == (
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n"
        f"What floats (1)?\n{listed} B\n\nWhat floats (9)?\n{listed}"
    )
    assert item.choices == (" A", " B", " C", " D")


def test_chinese_answers_have_no_blank() -> None:
    for name in ("ceval", "cmmlu", "c3"):
        item = one(name, question(9))
        assert item.context.endswith("问题：What floats (9)?\n答案：")
        assert item.choices[1] == "cork"


def test_boolq_and_piqa_read_as_in_lm_eval() -> None:
    asked = question(1, passage="Ice -- It floats.", text="does ice float?", options=("no", "yes"))
    item = one("boolq", asked)
    assert item.context == "Ice -- It floats.\nQuestion: does ice float?\nAnswer:"
    assert item.choices == (" no", " yes")
    item = one("piqa", question(1, text="Cool a drink", options=("add ice", "add fire ")))
    assert (item.context, item.choices) == (
        "Question: Cool a drink\nAnswer:",
        (" add ice", " add fire "),
    )


def test_written_answers_are_scored_by_their_reference() -> None:
    asked = question(1, text="Snow fell.", options=(), gold=-1, reference="It snowed.")
    item = one("xsum", asked)
    assert item.form == "generation"
    assert item.context.startswith("Document：Snow fell.\n")
    assert (item.choices, item.places) == ((" It snowed.",), (0,))


def test_examples_are_of_the_questions_part_in_order() -> None:
    examples = [example(3), example(7, "other"), example(1), example(2)]
    asked = [question(8), question(9)]
    items = list(build_items(TASKS["mmlu"], asked, examples, shots=2))
    for item in items:
        order = [item.context.index(f"({n})") for n in (3, 1)]
        assert order == sorted(order)
        assert "(7)" not in item.context
        assert "(2)" not in item.context


def test_a_question_is_never_its_own_example() -> None:
    twin = question(9, id="dev/old_ships/0", options=("lead", "iron", "iron", "cork"), gold=3)
    item = one("mmlu", question(9), twin, example(1), shots=2)
    assert item.context.count("(9)") == 1
    assert item.context.count("(1)") == 1


def test_too_few_examples_say_how_many_there_are() -> None:
    with pytest.raises(CorpusError, match=r"shots = 3, but 'old_ships' has 2 examples; give 2"):
        one("mmlu", question(9), example(0), example(1), shots=3)
    with pytest.raises(CorpusError, match=r"boolq: shots = 1, but it has no examples; give 0"):
        one("boolq", question(9), shots=1)


def test_wrong_forms_and_shots_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"boolq: no form 'letters'; it has cloze"):
        one("boolq", question(9), form="letters")
    with pytest.raises(RecipeError, match="shots = -1"):
        one("mmlu", question(9), shots=-1)
