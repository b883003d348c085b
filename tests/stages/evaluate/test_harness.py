"""Tasks written for lm-eval, and our model inside it; the second half needs lm-eval."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pocketlm.errors import OutputError, RecipeError
from pocketlm.evaluating import evaluate_model, read_request
from pocketlm.stages.evaluate.benchmarks import Asking, items_of, read_benchmarks
from pocketlm.stages.evaluate.bits import document_bits
from pocketlm.stages.evaluate.choice import Reading, score_items
from pocketlm.stages.evaluate.lm_eval_tasks import rouge_results, write_lm_eval_tasks
from pocketlm.stages.evaluate.tasks import TASKS
from pocketlm.stages.evaluate.writing import Pen, write_items

CONTEXT = 60
HOW = Reading(context_tokens=CONTEXT, seam="lm-eval")


def _keys(path: Path) -> dict[str, Any]:
    """The YAML as a plain loader reads it, names of functions as text."""
    return dict(yaml.safe_load(re.sub(r"!function (\S+)", r'"\1"', path.read_text())))


def _rows(keys: dict[str, Any]) -> list[dict[str, Any]]:
    lines = Path(keys["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def folder(benchmark_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of the made-up benchmarks, five questions each."""
    out = tmp_path_factory.mktemp("lm-eval") / "tasks"
    written = write_lm_eval_tasks(out, read_benchmarks(benchmark_folder, ()), _asking())
    assert [path.name for path in written] == [
        "pocketlm_boolq.yaml", "pocketlm_piqa.yaml", "pocketlm_xsum.yaml"
    ]  # fmt: skip
    return out


def _asking() -> Asking:
    return Asking(items=5, how=HOW)


def test_rows_hold_the_prompts_and_answers_of_our_items(
    folder: Path, benchmark_folder: Path
) -> None:
    for name, benchmark in read_benchmarks(benchmark_folder, ()).items():
        keys = _keys(folder / f"pocketlm_{name}.yaml")
        rows, items = _rows(keys), items_of(TASKS[name], benchmark, _asking())
        assert [row["query"] for row in rows] == [item.context for item in items]
        assert [row["id"] for row in rows] == [item.question.id for item in items]
        if name == "xsum":
            assert [row["reference"] for row in rows] == ["Rain 0.", "Rain 1."]
            continue
        whole = [tuple(keys["target_delimiter"] + c for c in row["choices"]) for row in rows]
        assert whole == [item.choices for item in items]
        assert [row["gold"] for row in rows] == [item.question.gold for item in items]


def test_yaml_names_local_data_and_adds_nothing_to_prompts(folder: Path) -> None:
    keys = _keys(folder / "pocketlm_boolq.yaml")
    assert (keys["task"], keys["tag"], keys["dataset_path"]) == (
        "pocketlm_boolq", ["pocketlm"], "json"
    )  # fmt: skip
    assert (keys["doc_to_text"], keys["doc_to_choice"], keys["doc_to_target"]) == (
        "query", "choices", "gold"
    )  # fmt: skip
    assert (keys["num_fewshot"], keys["target_delimiter"]) == (0, " ")
    assert [metric["metric"] for metric in keys["metric_list"]] == ["acc", "acc_norm"]
    assert set(keys["metadata"]["files"]) == {"boolq.val.jsonl"}
    written = _keys(folder / "pocketlm_xsum.yaml")
    assert written["process_results"] == "pocketlm_rouge.results"
    assert (folder / "pocketlm_rouge.py").is_file()
    assert written["generation_kwargs"]["max_gen_toks"] == Pen().new_tokens


def test_choices_without_a_blank_get_none(benchmark_folder: Path, tmp_path: Path) -> None:
    row = {"id": 0, "sentence": "不好", "label": "Negative"}
    (tmp_path / "eprstmt.jsonl").write_text(json.dumps(row))
    benchmarks = read_benchmarks(tmp_path, ())
    (path,) = write_lm_eval_tasks(tmp_path / "out", benchmarks, _asking())
    keys = _keys(path)
    assert keys["target_delimiter"] == ""
    assert _rows(keys)[0]["choices"] == ["消极", "积极"]


def test_a_folder_with_files_is_left_alone(benchmark_folder: Path) -> None:
    with pytest.raises(OutputError, match="is not empty"):
        write_lm_eval_tasks(benchmark_folder, {}, _asking())


def test_rouge_is_that_of_the_first_line() -> None:
    pytest.importorskip("rouge_score")
    row = {"reference": "Rain in town."}
    assert rouge_results(row, [" \n rain in town\nand more"])["rouge1"] == 1.0
    assert rouge_results(row, [""])["rougeL"] == 0.0


def test_the_door_writes_what_it_asks(
    tiny_parent: Path, benchmark_folder: Path, tmp_path: Path
) -> None:
    settings = ["evaluate.items=3", "evaluate.speed_tokens=0"]
    request = read_request(
        tiny_parent, data=benchmark_folder, tasks="piqa", corpus=(), settings=settings,
        lm_eval_tasks=tmp_path / "tasks",
    )  # fmt: skip
    found = evaluate_model(request)
    assert len(_rows(_keys(tmp_path / "tasks" / "pocketlm_piqa.yaml"))) == 3
    assert found.scores["model.benchmark_tokens"].value > 0
    with pytest.raises(RecipeError, match="give --data DIR"):
        read_request(
            tiny_parent, data=None, tasks="", corpus=("stdlib",), settings=(),
            lm_eval_tasks=tmp_path / "more",
        )  # fmt: skip


@pytest.fixture
def lm(network: Any, tokenizer: Any) -> Any:
    pytest.importorskip("lm_eval")
    from pocketlm.stages.evaluate.harness import PocketLM

    return PocketLM(network, tokenizer, context_tokens=CONTEXT)


def _request(*args: Any, kind: str = "loglikelihood", doc: int = 0) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, args, 0, metadata=("toy", doc, 1))


def test_log_likelihoods_are_our_nats(
    lm: Any, network: Any, tokenizer: Any, make_item: Callable[..., Any]
) -> None:
    items = [
        make_item("You may not use this work ", ["except as law", "in any way", "x"]),
        make_item("", ["You may", "not"]),
        make_item("the licence of the work " * 20, [" is", " is given"]),  # cut
    ]
    records = score_items(network, tokenizer, items, how=HOW).records
    asked = [_request(i.context, c, doc=n) for n, i in enumerate(items) for c in i.choices]
    found = lm.loglikelihood(asked)
    assert records[2].context_cut > 0
    assert [-log for log, _ in found] == pytest.approx([n for r in records for n in r.nats])


def test_greedy_is_the_likeliest_token_and_no_other(lm: Any, network: Any, tokenizer: Any) -> None:
    asked, expected = [], []
    for doc, context in enumerate(("You may", "the work", "Licence", "copies of", "for any")):
        ids = tokenizer.encode(context)
        logits_V = network(torch.tensor([[tokenizer.prefix_id, *ids]])).logits[0, -1]
        for place, token in enumerate(logits_V.argsort(descending=True)[:8].tolist()):
            text = tokenizer.decode([token])
            if text and tokenizer.encode(context + text) == [*ids, token]:
                asked.append(_request(context, text, doc=doc))
                expected.append(place == 0)
    assert {True, False} == set(expected)
    assert [greedy for _, greedy in lm.loglikelihood(asked)] == expected


def test_texts_are_what_the_model_writes(
    lm: Any, network: Any, tokenizer: Any, make_item: Callable[..., Any]
) -> None:
    item = make_item("You may", [" x"], form="generation", reference=" x")
    pen = Pen(new_tokens=6, stops=(), bare=False)
    (record,) = write_items(network, tokenizer, [item], how=HOW, pen=pen).records
    given = {"until": [], "max_gen_toks": 6}
    written = lm.generate_until([_request("You may", given, kind="generate_until")])
    assert written == [record.written]
    stop = record.written[-1:]
    cut = lm.generate_until([_request("You may", given | {"until": stop}, kind="generate_until")])
    assert cut == [record.written.partition(stop)[0]]


def test_whole_texts_count_each_token_once(lm: Any, network: Any, tokenizer: Any) -> None:
    text = "You may not use this work except in any way."
    bits = document_bits(network, tokenizer, [text], context=CONTEXT).bits_N[0]
    short, long, none = lm.loglikelihood_rolling(
        [_request(t, kind="loglikelihood_rolling") for t in (text, text * 9, "")]
    )
    assert -short / math.log(2) == pytest.approx(bits, rel=1e-5)
    assert len(tokenizer.encode(text * 9)) > 2 * CONTEXT
    assert long < short < none == 0.0


def test_sampling_and_too_long_texts_are_refused(lm: Any) -> None:
    sampled = {"do_sample": True, "temperature": 0.8}
    with pytest.raises(RecipeError, match="only greedy"):
        lm.generate_until([_request("You", sampled, kind="generate_until")])
    with pytest.raises(RecipeError, match="256 new tokens; a model that reads 60"):
        lm.generate_until([_request("You", {}, kind="generate_until")])


@pytest.mark.filterwarnings("ignore")  # of lm-eval and datasets, whatever they say
def test_lm_eval_finds_the_accuracy_that_we_find(
    lm: Any, folder: Path, network: Any, tokenizer: Any, benchmark_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from pocketlm.stages.evaluate.columns import from_records
    from pocketlm.stages.evaluate.metrics import answers

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    said = simple_evaluate(
        model=lm, tasks=["pocketlm_boolq", "pocketlm_piqa"], task_manager=manager, bootstrap_iters=0
    )
    for name in ("boolq", "piqa"):
        benchmark = read_benchmarks(benchmark_folder, (name,))[name]
        items = items_of(TASKS[name], benchmark, _asking())
        columns = from_records(score_items(network, tokenizer, items, how=HOW).records)
        for metric, normaliser in (("acc", "none"), ("acc_norm", "characters")):
            ours = answers(columns, normaliser).hit_N.mean()
            assert said["results"][f"pocketlm_{name}"][f"{metric},none"] == pytest.approx(ours)
