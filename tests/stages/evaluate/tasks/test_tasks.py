"""What each benchmark's rows mean, on rows of our own, and on the real files where they are."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate.find import Benchmark, read_benchmark
from pocketlm.stages.evaluate.items import Question
from pocketlm.stages.evaluate.prompts import build_items
from pocketlm.stages.evaluate.tasks import TASKS
from pocketlm.stages.evaluate.tasks.agieval import without_letters
from pocketlm.stages.evaluate.tasks.common import gold_of, options_of

PAPER = ["ceval", "cmmlu", "mmlu", "agieval", "boolq", "axb", "piqa", "eprstmt", "xsum", "c3"]
# Questions in the real files, counted from them once; XSum's is a tenth of the published.
COUNTS = {
    "ceval": 1_346, "cmmlu": 11_582, "mmlu": 14_042, "agieval": 5_915, "boolq": 3_270,
    "axb": 1_104, "piqa": 1_838, "eprstmt": 610, "xsum": 1_000, "c3": 3_816, "blimp": 67_000,
    "arc_e": 2_376, "arc_c": 1_172,
}  # fmt: skip
GOLDS = {
    "boolq": {1: 2_033, 0: 1_237},
    "piqa": {1: 928, 0: 910},
    "axb": {1: 644, 0: 460},
    "eprstmt": {1: 305, 0: 305},
    "c3": {0: 954, 1: 1_028, 2: 1_056, 3: 778},
}
CLUSTERS = {"c3": 2_674, "boolq": 2_939}
PARTS = {"ceval": 52, "cmmlu": 67, "mmlu": 57, "agieval": 18, "c3": 2, "blimp": 67}


def questions(name: str, *rows: dict) -> list[Question]:
    return list(TASKS[name].questions(rows))


def test_the_papers_ten_come_first_in_its_order() -> None:
    assert list(TASKS)[:10] == PAPER
    assert [task.name for task in TASKS.values() if task.in_paper] == PAPER
    assert all(name == task.name for name, task in TASKS.items())


def test_options_come_as_lists_columns_or_the_hubs_table() -> None:
    assert options_of({"choices": ["x", "x"]}) == ("x", "x")
    assert options_of({"A": "x", "B": "y", "D": "z"}) == ("x", "y", "z")
    assert options_of({"choices": {"text": ["x", "y"], "label": ["1", "2"]}}) == ("x", "y")
    for wrong in (["x"], "x, y", ["x", " "], ["x", 3]):
        with pytest.raises(CorpusError, match="choices"):
            options_of({"choices": wrong})


def test_answers_are_labels_or_places() -> None:
    assert [gold_of(answer, "ABCD") for answer in ("A", " D", 2)] == [0, 3, 2]
    assert gold_of("3", ["1", "2", "3"]) == 2
    for wrong in ("E", 4, -1, True, None, "AB", ""):
        with pytest.raises(CorpusError, match="accepted: A, B, C, D"):
            gold_of(wrong, ["A", "B", "C", "D"])


def test_labels_of_every_kind_mean_one_thing() -> None:
    row = {"question": "is it", "passage": "It is."}
    golds = [questions("boolq", row | {"label": v})[0].gold for v in ("true", True, 1, "1")]
    assert golds == [1, 1, 1, 1]
    assert questions("boolq", row | {"answer": False})[0].gold == 0
    row = {"sentence1": "It rains.", "sentence2": "It is dry."}
    golds = [questions("axb", row | {"label": v})[0].gold for v in ("entailment", "0")]
    assert golds == [0, 0]
    assert questions("axb", row | {"label": "not_entailment"})[0].gold == 1
    row = {"sentence": "好", "label": "Positive"}
    assert questions("eprstmt", row)[0].options[questions("eprstmt", row)[0].gold] == "Positive"
    with pytest.raises(CorpusError, match="label 'good'; accepted: negative, positive"):
        questions("eprstmt", row | {"label": "good"})


def test_questions_of_one_passage_share_a_cluster() -> None:
    row = {"kind": "mixed", "context": "甲去了。", "choices": ["甲", "乙"], "label": 0}
    first, second, third = questions(
        "c3",
        row | {"id": "1-1", "question": "谁去了?"},
        row | {"id": "1-1", "question": "谁没去?", "choices": ["甲", "乙", "丙"], "label": 2},
        row | {"id": "1-2", "question": "谁?"},
    )
    assert first.cluster == second.cluster != third.cluster
    assert len({first.id, second.id, third.id}) == 3
    assert second.options == ("甲", "乙", "丙")  # neither padded nor cut
    row = {"passage": "It is.", "label": 1}
    one, two = questions("boolq", row | {"question": "is it"}, row | {"question": "was it"})
    assert one.cluster == two.cluster


def test_agieval_scores_one_right_answer_and_says_what_it_leaves_out() -> None:
    row = {"task": "jec-qa-kd", "passage": None, "question": "谁?", "options": ["(A)甲", "(B)乙"]}
    several, single = row | {"label": ["A", "B"]}, row | {"label": ["B"]}
    written = row | {"options": None, "label": None}
    again = row | {"task": "sat-en-without-passage", "label": "A"}
    (kept,) = questions("agieval", several, single, written, again)
    assert (kept.id, kept.gold, kept.options) == ("jec-qa-kd/1", 1, ("甲", "乙"))
    reason = TASKS["agieval"].left_out
    assert reason
    assert reason(single) == ""
    assert len({reason(several), reason(written), reason(again), ""}) == 4
    assert reason(row | {"label": "A C"}) == reason(several) == reason(row | {"label": []})


@pytest.mark.parametrize(
    ("options", "bare"),
    [
        (["(A)x", "(B)(A)y"], ("x", "(A)y")),
        (["（A）x", " B. y"], ("x", "y")),
        (["A．x", "B、y"], ("x", "y")),
        (["A x", "B y"], ("x", "y")),
        (["A bird", "The cat"], ("A bird", "The cat")),
        (["A", "B"], ("A", "B")),
        (["(B)x", "(A)y"], ("(B)x", "(A)y")),
    ],
)
def test_letters_before_options_go(options: list[str], bare: tuple[str, ...]) -> None:
    assert without_letters(options) == bare


def test_blimp_puts_the_good_sentence_first_in_every_second_pair() -> None:
    row = {"UID": "x", "sentence_good": "She runs.", "sentence_bad": "She run."}
    pairs = questions("blimp", *(row | {"pairID": str(n)} for n in range(4)))
    assert [pair.gold for pair in pairs] == [0, 1, 0, 1]
    assert {pair.options[pair.gold] for pair in pairs} == {"She runs."}
    (item,) = build_items(TASKS["blimp"], pairs[:1])
    assert (item.context, item.choices) == ("", ("She runs.", "She run."))


def test_arc_reads_both_forms_of_its_labels() -> None:
    row = {"id": "q", "question": "?"}
    ours = row | {"choices": ["x", "y", "z"], "labels": ["1", "2", "3"], "answer": "3"}
    hub = row | {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
    assert questions("arc_c", ours)[0].gold == 2
    assert questions("arc_e", hub)[0].gold == 1
    with pytest.raises(CorpusError, match="2 labels of 3 choices"):
        questions("arc_c", ours | {"labels": ["1", "2"]})


def test_chinese_examinations_of_agieval_are_asked_in_chinese() -> None:
    ends = {}
    for name in ("gaokao-history", "gaokao-english", "logiqa-zh", "lsat-ar"):
        row = {"task": name, "question": "?", "options": ["(A)x", "(B)y"], "label": "A"}
        (item,) = build_items(TASKS["agieval"], questions("agieval", row), form="letters")
        ends[name] = item.context.splitlines()[-1]
    assert list(ends.values()) == ["答案：", "Answer:", "答案：", "Answer:"]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Callable[[str], Benchmark]:
    """Each benchmark of the shared data, read once."""
    return cache(lambda name: read_benchmark(shared_data / "eval", TASKS[name]))


@pytest.mark.parametrize("name", TASKS)
def test_real_questions_are_as_published(real: Callable[[str], Benchmark], name: str) -> None:
    found, task = real(name), TASKS[name]
    assert len(found.questions) == COUNTS[name]
    assert name == "xsum" or task.published == COUNTS[name]
    golds = Counter(question.gold for question in found.questions)
    assert golds == GOLDS.get(name, golds)
    clusters = len({question.cluster for question in found.questions})
    assert clusters == CLUSTERS.get(name, clusters)
    parts = {question.part for question in found.questions}
    assert len(parts) == PARTS.get(name, 1)
    assert {example.part for example in found.examples} in (parts, set())
    assert not {q.id for q in found.questions} & {e.id for e in found.examples}
    if task.forms != ("generation",):
        assert all(0 <= q.gold < len(q.options) for q in found.questions)


@pytest.mark.parametrize("name", TASKS)
def test_real_items_read_whole(real: Callable[[str], Benchmark], name: str) -> None:
    """Every form of every 20th question: choices are there, and the prompt ends before them."""
    found, task = real(name), TASKS[name]
    for form in task.forms:
        items = list(build_items(task, found.questions[::20], form=form))
        for item in items:
            assert len(item.choices) == len(item.places) >= (1 if form == "generation" else 2)
            assert all(choice.strip() for choice in item.choices)
            assert item.context == item.context.rstrip()
            if form == "letters":
                assert not item.context.endswith(item.choices[item.question.gold])
                assert all(option in item.context for option in item.question.options)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.examples])
def test_real_examples_never_hold_the_question(real: Callable[[str], Benchmark], name: str) -> None:
    found, task = real(name), TASKS[name]
    asked = found.questions[::200]
    if name == "cmmlu":  # one that stands among its own examples, answers in another order
        asked += tuple(q for q in found.questions if q.id == "test/college_law/99")
    for item in build_items(task, asked, found.examples, shots=5):
        own = task.render(item.question, item.form)[0]
        assert item.context.endswith(own)
        assert item.context.count(own) == 1
        assert item.context.count(task.between) >= 4


def test_agieval_counts_what_it_leaves_out(real: Callable[[str], Benchmark]) -> None:
    found = real("agieval")
    assert sum(found.left_out.values()) + len(found.questions) == 8_269
    assert sorted(found.left_out.values()) == [206, 1_030, 1_118]
