"""Two models on the same items: scipy's tests, what is refused, and few false verdicts."""

import dataclasses
import importlib.util
import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from pocketlm.errors import UserError
from pocketlm.stages.evaluate.columns import from_records
from pocketlm.stages.evaluate.differences import Kept, compare_records, verdict
from pocketlm.stages.evaluate.items import Record
from pocketlm.stages.evaluate.provenance import Origin, Provenance
from pocketlm.stages.evaluate.results import results
from pocketlm.statistics import mean_over_parts

ORIGIN = Origin(
    group="Knowledge", in_paper=True, metric="accuracy", form="cloze", shots=0, data={"a": "1"}
)
PROVENANCE = Provenance(
    tasks={
        "boolq": ORIGIN,
        "axb": dataclasses.replace(ORIGIN, group="Reasoning", metric="mcc"),
        "mmlu": dataclasses.replace(ORIGIN, group="Examination", shots=5),
        "xsum": dataclasses.replace(
            ORIGIN, group="Understanding", metric="rouge", form="generation"
        ),
    },
    tokenizer="t", weights="w", seam="healed",
)  # fmt: skip


def model(
    hits: Any, *, task: str = "boolq", cluster: int = 1, bits: float = 0.0, **changes: Any
) -> list[Record]:
    """Items with two choices, right where `hits` says so; `bits` lengthens the right answer's."""
    made = []
    for n, hit in enumerate(hits):
        gold, wrong = (0.5, 1.0) if hit else (1.0, 0.5)
        made.append(
            Record(
                task=task, form="cloze", item=str(n), part=f"p{n % 3}", cluster=str(n // cluster),
                gold=n % 2, nats=((gold + bits, wrong), (wrong, gold + bits))[n % 2],
                tokens=(1, 1), num_bytes=(4, 4), num_characters=(4, 4), context_tokens=5,
                context_cut=0, seam=0, prompt_sha256=f"{task} {n}",
            )
        )  # fmt: skip
    return [dataclasses.replace(record, **changes) for record in made]


def kept(records: list[Record], provenance: Provenance = PROVENANCE) -> Kept:
    return from_records(records), provenance


def two(seed: int, count: int = 200, gain: float = 0.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    skill = rng.random(count)
    return rng.random(count) < skill, rng.random(count) < np.minimum(1, skill + gain)


def test_single_items_are_judged_by_mcnemar() -> None:
    first, second = two(0, gain=0.2)
    found = compare_records(kept(model(first)), kept(model(second))).tasks[0]
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    assert (found.only_first, found.only_second) == (only_first, only_second)
    theirs = binomtest(only_first, only_first + only_second).pvalue
    assert found.p == pytest.approx(theirs, abs=1e-9)
    assert found.p_holm == found.p  # one task: nothing to correct
    interval = ttest_rel(second.astype(float), first.astype(float)).confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )
    assert (found.first, found.second) == (first.mean(), second.mean())
    assert found.difference.value == pytest.approx(second.mean() - first.mean())
    assert found.verdict == "better"
    assert found.detectable == pytest.approx(2.83 * found.difference.error, rel=0.02)


def test_passages_are_judged_by_the_clustered_t_test() -> None:
    """Whole passages change together: McNemar would see four times the evidence."""
    first = np.repeat(np.arange(40) % 2 == 0, 4)
    second = np.repeat((np.arange(40) % 2 == 0) | (np.arange(40) < 10), 4)
    shared = compare_records(kept(model(first, cluster=4)), kept(model(second, cluster=4))).tasks[0]
    single = compare_records(kept(model(first)), kept(model(second))).tasks[0]
    assert shared.num_clusters == 40
    by_passage = second.reshape(40, 4).mean(1) - first.reshape(40, 4).mean(1)
    theirs = ttest_rel(by_passage, np.zeros(40))
    assert shared.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert single.p < 1e-4 < shared.p


def test_one_passage_alone_decides_nothing() -> None:
    first, second = np.zeros(20, dtype=bool), np.ones(20, dtype=bool)
    found = compare_records(kept(model(first, cluster=20)), kept(model(second, cluster=20)))
    task = found.tasks[0]
    assert (task.p, task.bits_p, task.verdict, task.detectable) == (
        1.0,
        1.0,
        "not resolvable",
        None,
    )
    assert task.difference.low is None
    assert found.paper is not None
    assert found.paper.low is None


def test_bits_of_right_answers_are_compared_pairwise() -> None:
    hits = two(1)[0]
    found = compare_records(kept(model(hits)), kept(model(hits, bits=0.1))).tasks[0]
    each = 0.1 / np.log(2) / 4
    assert dataclasses.astuple(found.bits_per_byte)[:3] == pytest.approx((each, each, each))
    assert found.bits_verdict == "worse"
    assert (found.p, found.verdict, found.detectable) == (1.0, "not resolvable", None)


def test_matthews_and_subjects_are_compared_too() -> None:
    first, second = two(2, gain=0.3)
    axb = compare_records(kept(model(first, task="axb")), kept(model(second, task="axb"))).tasks[0]
    assert axb.mcc is not None
    assert axb.mcc.low < axb.mcc.value < axb.mcc.high
    assert axb.mcc.value > 0
    found = compare_records(kept(model(first, task="mmlu")), kept(model(second, task="mmlu")))
    d_N = second.astype(float) - first
    by_part = mean_over_parts(d_N, np.arange(200) % 3, np.arange(200))
    assert found.tasks[0].by_part == by_part
    assert found.paper.value == pytest.approx(by_part.value)


def test_only_items_asked_alike_are_compared_and_the_rest_counted() -> None:
    hits = two(3, count=30)[0]
    other = model(hits)[5:]
    other[0] = dataclasses.replace(other[0], prompt_sha256="other words")
    found = compare_records(kept(model(hits)), kept(other[::-1])).tasks[0]
    assert found.num_items == 24
    assert found.left_out == 5 + 1 + 1
    assert found.difference.value == 0.0
    both = [*model(hits), *model(hits, task="mmlu")]
    found = compare_records(kept(both), kept(model(hits)))
    assert (found.only_first, found.only_second) == (("mmlu",), ())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"form": "letters"}, "boolq: form = 'cloze' there, 'letters' here"),
        ({"shots": 5}, "boolq: shots = 0 there, 5 here"),
        ({"data": {"a": "2"}}, "the data differ .a: sha256 1 there, 2 here"),
        ({"data": {"a": "1", "b": "3"}}, "b: sha256 none there, 3 here"),
    ],
)
def test_other_data_or_prompts_are_refused(changes: dict[str, Any], says: str) -> None:
    hits = two(4)[0]
    origin = dataclasses.replace(ORIGIN, **changes)
    other = dataclasses.replace(PROVENANCE, tasks={"boolq": origin})
    with pytest.raises(UserError, match=says):
        compare_records(kept(model(hits)), kept(model(hits, form=origin.form), other))


def test_other_ways_of_scoring_are_refused() -> None:
    hits = two(4)[0]
    for key in ("seam", "normaliser"):
        other = dataclasses.replace(PROVENANCE, **{key: "none"})
        with pytest.raises(UserError, match=f"{key} = .* there, 'none' here"):
            compare_records(kept(model(hits)), kept(model(hits), other))
    named = compare_records(kept(model(hits)), kept(model(hits), other), normaliser="characters")
    assert named.normaliser == "characters"
    with pytest.raises(UserError, match="no benchmark in common: boolq and mmlu"):
        compare_records(kept(model(hits)), kept(model(hits, task="mmlu")))
    with pytest.raises(UserError, match="none of 200 and 200 items has the same prompt"):
        compare_records(kept(model(hits)), kept(model(hits, prompt_sha256="other")))


def test_another_tokenizer_reads_the_same_prompt() -> None:
    hits = two(4)[0]
    other = dataclasses.replace(PROVENANCE, tokenizer="smaller", weights="child")
    found = compare_records(kept(model(hits)), kept(model(hits, context_tokens=9), other))
    assert found.tasks[0].num_items == 200


def test_equal_models_are_rarely_told_apart() -> None:
    """60 pairs of equal models on three tasks, Holm over them: any verdict in few of them."""
    false = 0
    for seed in range(60):
        first, second = [], []
        for number, task in enumerate(("boolq", "axb", "mmlu")):
            ours, theirs = two(1000 + 10 * seed + number, count=60)
            first += model(ours, task=task)
            second += model(theirs, task=task)
        found = compare_records(kept(first), kept(second))
        false += any(task.verdict != "not resolvable" for task in found.tasks)
    assert false <= 7  # 5 % of 60, and 2.4 standard errors


@pytest.mark.skipif(
    importlib.util.find_spec("rouge_score") is None, reason="the extra `eval` is not installed"
)
def test_rouge_is_compared_by_paired_bootstrap() -> None:
    def writer(share: float, seed: int) -> Kept:
        rng = np.random.default_rng(seed)
        records = []
        for record in model([True] * 60, task="xsum", form="generation", gold=0, num_bytes=(4,),
                            nats=(1.0,), tokens=(1,), num_characters=(4,)):  # fmt: skip
            words = [f"w{n}" if rng.random() < share else "x" for n in range(12)]
            reference = " ".join(f"w{n}" for n in range(12))
            records.append(
                dataclasses.replace(record, written=" ".join(words), reference=reference)
            )
        return kept(records)

    found = compare_records(writer(0.3, 1), writer(0.6, 2)).tasks[0]
    assert (found.quantity, found.verdict) == ("ROUGE-1", "better")
    assert found.only_first is found.only_second is None
    assert found.difference.low > 0.2
    same = compare_records(writer(0.3, 1), writer(0.3, 1)).tasks[0]
    assert (same.p, same.verdict) == (1.0, "not resolvable")


def test_verdicts() -> None:
    assert verdict(0.1, 0.01, "higher") == verdict(-0.1, 0.01, "lower") == "better"
    assert verdict(-0.1, 0.01, "higher") == verdict(0.1, 0.01, "lower") == "worse"
    assert verdict(0.1, 0.05, "higher") == "not resolvable"


def test_results_are_plain_json() -> None:
    first, second = two(5)
    models = {"child": kept(model(second)), "parent": kept(model(first))}
    table = json.loads(json.dumps(results(models), allow_nan=False))
    child = table["models"]["child"]["tasks"][0]
    assert child["in_table"]["value"] == pytest.approx(second.mean())
    assert table["models"]["parent"]["weights"] == "w"
    assert table["difference"]["tasks"][0]["difference"]["value"] == pytest.approx(
        second.mean() - first.mean()
    )
    assert "difference" not in results({"child": models["child"]})
