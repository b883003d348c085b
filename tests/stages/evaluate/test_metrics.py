"""Metrics by hand, what must not change them, and ROUGE against its own package."""

import dataclasses
import importlib.util
import math
from typing import Any

import numpy as np
import pytest

from pocketlm.errors import RecipeError, StageError, UserError
from pocketlm.stages.evaluate import rouge as rouge_module
from pocketlm.stages.evaluate.averages import PAPER_TASKS, score_all
from pocketlm.stages.evaluate.columns import Columns, from_records, to_records
from pocketlm.stages.evaluate.items import Record
from pocketlm.stages.evaluate.metrics import NORMALISERS, answers, score_task
from pocketlm.stages.evaluate.provenance import Origin, Provenance
from pocketlm.stages.evaluate.rouge import rouge
from pocketlm.statistics import wilson

LN2 = math.log(2)


def record(item: int, gold: int, nats: list[float], **changes: Any) -> Record:
    """Choices of 4, 8, 12, ... bytes, two bytes a character."""
    lengths = tuple(4 * (c + 1) for c in range(len(nats)))
    record = Record(
        task="boolq", form="cloze", item=str(item), part="all", cluster=str(item), gold=gold,
        nats=tuple(nats), tokens=(1,) * len(nats), num_bytes=lengths,
        num_characters=tuple(n // 2 for n in lengths), context_tokens=9, context_cut=0, seam=0,
        prompt_sha256=f"prompt {item}",
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


def origin(**changes: Any) -> Origin:
    return dataclasses.replace(
        Origin(group="Knowledge", in_paper=True, metric="accuracy", form="cloze", shots=0, data={}),
        **changes,
    )


def score(records: list[Record], *, normaliser: str = "bytes", **changes: Any) -> Any:
    return score_task(
        "boolq", from_records(records), origin(**changes), normaliser=normaliser,
        rng=np.random.default_rng(0),
    )  # fmt: skip


def random_records(count: int = 300, seed: int = 0, choices: int = 4) -> list[Record]:
    rng = np.random.default_rng(seed)
    records = []
    for n in range(count):
        num_bytes = rng.integers(3, 30, choices)
        records.append(
            record(
                n, int(rng.integers(choices)), (rng.gamma(4, 0.4, choices) * num_bytes).tolist(),
                num_bytes=tuple(num_bytes.tolist()), part=f"p{n % 3}",
            )
        )  # fmt: skip
    return records


def test_every_number_by_hand() -> None:
    """Nats a byte: 2/4, 2/8 -> second; 1/4, 4/8 -> first. Right: the second twice."""
    found = score([record(0, 1, [2.0, 2.0]), record(1, 1, [1.0, 4.0])])
    assert found.score.value == 0.5
    assert (found.score.low, found.score.high) == pytest.approx(wilson(1, 2))
    assert found.corrected.value == pytest.approx(0.0)
    first = math.exp(-0.25) / (math.exp(-0.25) + math.exp(-0.5))
    second = math.exp(-0.5) / (math.exp(-0.25) + math.exp(-0.5))
    assert found.probability.value == pytest.approx((first + second) / 2)
    assert found.bits_per_byte.value == pytest.approx((2 + 4) / LN2 / 16)
    assert (found.chance, found.majority, found.num_items) == (0.5, 1.0, 2)
    assert found.mcc is None
    assert found.rouge is None


def test_the_majority_place_is_a_baseline_where_places_are_seen() -> None:
    records = [record(n, 0, [0.1, 9.0]) for n in range(4)]
    assert score(records).majority == 1.0
    pairs = [dataclasses.replace(r, form="continuation") for r in records]
    found = score(pairs, form="continuation")
    assert (found.majority, found.parts[0].majority) == (0.5, 0.5)


def test_normalisers_choose_differently() -> None:
    """Summed: 3 beats 4. A byte: 4/8 beats 3/4. A character, one wide: 3/1 loses to 4/4."""
    columns = from_records([record(0, 0, [3.0, 4.0], num_characters=(1, 4))])
    chosen = {name: int(answers(columns, name).chosen_N[0]) for name in NORMALISERS}
    assert chosen == {"bytes": 1, "characters": 1, "none": 0}
    with pytest.raises(RecipeError, match="did you mean 'bytes'"):
        answers(columns, "byte")


def test_ties_take_the_first_and_are_counted() -> None:
    equal = record(0, 1, [1.0, 2.0, 3.0])
    near = record(1, 0, [1.0, 2.00001, 9.0])
    clear = record(2, 0, [1.0, 2.1, 9.0])
    found = score([equal, near, clear])
    assert found.near_ties == 2
    assert answers(from_records([equal]), "bytes").chosen_N.tolist() == [0]
    assert found.score.value == pytest.approx(2 / 3)


def test_mixed_numbers_of_options_are_fair() -> None:
    """C3: right with 2 options counts 1, wrong with 2 -1, wrong with 4 -1/3; guessing is 0."""
    records = [
        record(0, 0, [0.1, 9.0]),
        record(1, 1, [0.1, 9.0]),
        record(2, 1, [0.1, 9.0, 9.0, 9.0]),
        record(3, 0, [0.1, 9.0, 9.0]),
    ]
    found = score(records)
    assert found.corrected.value == pytest.approx((1 - 1 - 1 / 3 + 1) / 4)
    assert found.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4 + 1 / 3) / 4)
    rng = np.random.default_rng(5)
    guessed = [
        record(n, int(rng.integers(c)), rng.random(c).tolist(), num_bytes=(1,) * c)
        for n, c in enumerate(rng.integers(2, 5, 4000).tolist())
    ]
    found = score(guessed)
    assert found.corrected.low < 0 < found.corrected.high
    assert found.score.value == pytest.approx(found.chance, abs=0.03)


def test_the_order_of_choices_and_of_items_does_not_matter() -> None:
    records, rng = random_records(), np.random.default_rng(7)
    shuffled = []
    for own in rng.permutation(np.arange(len(records))).tolist():
        order = rng.permutation(4).tolist()
        moved = {
            name: tuple(getattr(records[own], name)[c] for c in order)
            for name in ("nats", "tokens", "num_bytes", "num_characters")
        }
        gold = order.index(records[own].gold)
        shuffled.append(dataclasses.replace(records[own], gold=gold, **moved))
    before, after = score(records), score(shuffled)
    for name in ("score", "by_part", "corrected", "probability"):
        ours, theirs = getattr(before, name), getattr(after, name)
        assert dataclasses.astuple(ours) == pytest.approx(dataclasses.astuple(theirs)), name
    assert before.bits_per_byte.value == pytest.approx(after.bits_per_byte.value)
    parts = [{part.name: part.score.value for part in found.parts} for found in (before, after)]
    assert parts[0] == pytest.approx(parts[1])


def test_matthews_is_0_for_a_constant_answer_and_1_for_all_right() -> None:
    constant = [record(n, n % 2, [0.1, 9.0]) for n in range(10)]
    assert score(constant, metric="mcc").mcc.value == 0.0
    right = [record(n, n % 2, [9.0 * (n % 2), 9.0 * (1 - n % 2)]) for n in range(10)]
    found = score(right, metric="mcc")
    assert found.mcc.value == pytest.approx(1.0)
    assert found.score.value == 1.0
    # 3 of 4 and 2 of 4 right: (3·2 - 1·2) / sqrt(4·4·5·3)
    cells = [(0, 0)] * 3 + [(0, 1)] + [(1, 1)] * 2 + [(1, 0)] * 2
    mixed = [record(n, g, [1.0 * c, 1.0 - c]) for n, (g, c) in enumerate(cells)]
    assert score(mixed, metric="mcc").mcc.value == pytest.approx(4 / math.sqrt(240))


def test_passages_widen_the_interval_and_one_alone_has_none() -> None:
    hits = [record(n, 0, [0.1, 9.0] if n // 10 % 2 else [9.0, 0.1]) for n in range(100)]
    shared = [dataclasses.replace(r, cluster=str(n // 10)) for n, r in enumerate(hits)]
    single, clustered = score(hits), score(shared)
    assert clustered.num_clusters == 10
    assert clustered.score.high - clustered.score.low > 2 * (single.score.high - single.score.low)
    assert clustered.bits_per_byte.error > 2 * single.bits_per_byte.error
    alone = score([dataclasses.replace(r, cluster="one") for r in hits])
    for found in (alone.score, alone.by_part, alone.corrected, alone.bits_per_byte):
        assert (found.low, found.high) == (None, None)


def test_parts_are_scored_alone_and_averaged_alike() -> None:
    records = [record(n, 0, [0.1, 9.0], part="big") for n in range(9)]
    records += [record(n, 0, [9.0, 0.1], part="small") for n in range(9, 12)]
    found = score(records, group="Examination")
    assert found.score.value == 0.75
    assert found.by_part.value == found.in_table.value == 0.5
    assert score(records).in_table.value == 0.75
    assert [(p.name, p.num_items, p.score.value) for p in found.parts] == [
        ("big", 9, 1.0),
        ("small", 3, 0.0),
    ]
    assert found.parts[0].score.low == pytest.approx(wilson(9, 9)[0])


def test_a_task_of_many_passages_gets_the_same_bootstrap_error() -> None:
    """More than MOST_GROUPS items are dealt into groups: the ratio's error is the usual one."""
    found = score(random_records(5000, choices=2))
    columns = from_records(random_records(5000, choices=2))
    bits_N, bytes_N = columns.nats_F[columns.gold_F] / LN2, columns.bytes_F[columns.gold_F]
    residual_N = bits_N - found.bits_per_byte.value * bytes_N
    expected = math.sqrt(float(residual_N @ residual_N)) / bytes_N.sum()
    assert found.bits_per_byte.error == pytest.approx(expected, rel=0.08)


def test_averages_are_the_paper_s_and_by_item() -> None:
    records = [record(n, 0, [0.1, 9.0]) for n in range(30)]  # BoolQ: all right
    records += [record(n, 0, [9.0, 0.1], task="mmlu", part=f"{n % 2}") for n in range(10)]
    records += [record(n, 0, [0.1, 9.0], task="blimp") for n in range(5)]
    tasks = {
        "boolq": origin(),
        "mmlu": origin(group="Examination"),
        "blimp": origin(group="Language", in_paper=False),
    }
    own = Provenance(tasks=tasks, tokenizer="t", weights="w", seam="healed")
    found = score_all(from_records(records), own, resamples=50)
    assert [task.task for task in found.tasks] == ["mmlu", "boolq", "blimp"]
    assert found.paper.score.value == 0.5
    assert found.by_item.score.value == 0.75
    assert found.groups["Language"].score.value == 1.0
    assert set(found.missing) == set(PAPER_TASKS) - {"boolq", "mmlu"}
    assert (found.paper.num_tasks, found.paper.num_items) == (2, 40)
    assert found.paper.chance == 0.5
    with pytest.raises(StageError, match="blimp"):
        score_all(from_records(records), dataclasses.replace(own, tasks={"boolq": origin()} | {
            "mmlu": origin(group="Examination")}))  # fmt: skip


def test_independent_tasks_add_their_errors_in_squares() -> None:
    from pocketlm.stages.evaluate.averages import weighted
    from pocketlm.statistics import Measured

    found = weighted([Measured(value=0.2, error=0.03), Measured(value=0.6, error=0.04)], [0.5, 0.5])
    assert found.value == pytest.approx(0.4)
    assert found.error == pytest.approx(0.025)
    assert weighted([Measured(value=0.2)], [1.0]).low is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nats": (1.0, math.nan)}, "boolq, item 5: has a log-likelihood that is not a number"),
        ({"nats": (math.inf, 1.0)}, "not a number"),
        ({"num_bytes": (0, 4)}, "has an empty choice"),
        ({"num_characters": (0, 4)}, "has an empty choice"),
        ({"gold": 2}, "has no such right choice"),
        ({"gold": -1}, "has no such right choice"),
        ({"num_bytes": (1,)}, "differ in length"),
    ],
)
def test_what_no_metric_can_read_is_named(changes: dict[str, Any], says: str) -> None:
    wrong = dataclasses.replace(record(5, 0, [1.0, 2.0]), **changes)
    with pytest.raises(StageError, match=says):
        from_records([record(4, 0, [1.0, 2.0]), wrong])


def test_one_choice_two_forms_and_repeats_are_refused() -> None:
    with pytest.raises(StageError, match="nothing to choose"):
        from_records([record(0, 0, [1.0])])
    with pytest.raises(StageError, match="recorded twice"):
        from_records([record(0, 0, [1.0, 2.0])] * 2)
    with pytest.raises(StageError, match="asked as 'letters'"):
        score([record(0, 0, [1.0, 2.0])], form="letters")
    with pytest.raises(StageError, match="no item"):
        answers(from_records([]), "bytes")


def test_columns_give_their_records_back() -> None:
    records = [*random_records(20), record(99, 1, [1.0, 2.0], task="c3", cluster="x", seam=2)]
    columns = from_records(records)
    assert to_records(columns) == records
    assert to_records(columns.take(np.array([20, 3, 3]))) == [records[20], records[3], records[3]]
    parts = columns.by_task()
    assert [len(own) for own in parts.values()] == [20, 1]
    assert isinstance(parts["c3"], Columns)


def written(item: int, text: str, reference: str, **changes: Any) -> Record:
    return record(item, 0, [8.0], form="generation", written=text, reference=reference, **changes)


needs_rouge = pytest.mark.skipif(
    importlib.util.find_spec("rouge_score") is None, reason="the extra `eval` is not installed"
)


@needs_rouge
def test_rouge_by_hand_and_as_its_package_says() -> None:
    """5 of 6 words shared, 3 of 5 pairs, 5 in order."""
    found = rouge([("the cat sat on the mat", "The cat lay on the mat.")])[0]
    assert found == pytest.approx([5 / 6, 3 / 5, 5 / 6])
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [("A café's U.S. 2nd test_case!", "a cafe in the U.S., 2nd"), ("x y z", "z y x")]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for text, reference in pairs:
        theirs = scorer.score(reference, text)
        assert rouge([(text, reference)])[0] == pytest.approx(
            [score.fmeasure for score in theirs.values()]
        )


@needs_rouge
def test_rouge_of_nothing_is_0_and_chinese_counts_by_character() -> None:
    found = rouge([("", "a b"), ("a b", ""), ("", ""), ("。！", "。"), (None, None)])
    assert (found[:4] == 0).all()
    assert np.isnan(found[4]).all()
    # 我爱你 against 你爱我: every character, no pair, one in order.
    assert rouge([("我爱你", "你爱我")])[0] == pytest.approx([1.0, 0.0, 1 / 3])
    mixed = rouge([("华为Mate 60发布", "华为 mate 60 发布")])[0]
    assert mixed == pytest.approx([1.0, 1.0, 1.0])
    assert rouge([("カメラ 사진", "カメラ")])[0][0] == pytest.approx(2 * 3 / (3 + 5))


@needs_rouge
def test_written_answers_are_scored_by_rouge_1() -> None:
    records = [written(0, "the cat", "the cat"), written(1, "", "a dog")]
    found = score(records, form="generation", metric="rouge")
    assert found.score.value == 0.5
    assert found.rouge["rougeL"].value == 0.5
    assert found.score.low <= 0.5 <= found.score.high
    assert (found.chance, found.majority, found.near_ties, found.parts) == (0.0, 0.0, 0, ())
    assert found.corrected is found.probability is found.mcc is None
    assert found.bits_per_byte.value == pytest.approx(8 / LN2 / 4)


def test_a_missing_rouge_score_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rouge_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pocketlm\[eval\]'"):
        from_records([written(0, "a", "b")])
    from_records([record(0, 0, [1.0, 2.0])])  # choices need no package
