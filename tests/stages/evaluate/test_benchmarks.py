"""All benchmarks to one model: the same questions for everyone, and records that say how."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import CorpusError, RecipeError
from pocketlm.model.checkpoint import load_child
from pocketlm.stages.evaluate.averages import score_all
from pocketlm.stages.evaluate.benchmarks import (
    Asking,
    Identity,
    ask,
    check_asking,
    form_of,
    read_benchmarks,
    shots_of,
    some_of,
    tasks_in,
)
from pocketlm.stages.evaluate.choice import Reading
from pocketlm.stages.evaluate.tasks import TASKS

IDENTITY = Identity(tokenizer="t", weights="w")


@pytest.fixture(scope="module")
def asked(tiny_parent: Path, benchmark_folder: Path) -> Callable[..., Any]:
    network = load_child(tiny_parent).network().eval()
    tokenizer = load_tokenizer(tiny_parent)

    def run(**changes: Any) -> Any:
        asking = Asking(**{"how": Reading(context_tokens=200), **changes})
        return ask(network, tokenizer, read_benchmarks(benchmark_folder, ()), asking, IDENTITY)

    return run


def test_every_task_of_the_folder_is_asked(asked: Callable[..., Any]) -> None:
    found = asked()
    assert list(found.columns.by_task()) == ["boolq", "piqa", "xsum"]  # in the order of TASKS
    assert {n: o.form for n, o in found.provenance.tasks.items()} == {
        "boolq": "cloze", "piqa": "cloze", "xsum": "generation"
    }  # fmt: skip
    assert set(found.provenance.tasks["piqa"].data) == {"piqa.jsonl"}
    assert found.tokens_read < found.tokens_alone
    scored = score_all(found.columns, found.provenance)
    assert [task.num_items for task in scored.tasks] == [12, 9, 2]


def test_fewer_items_are_some_of_them_in_order(asked: Callable[..., Any]) -> None:
    every, some = asked().columns, asked(items=5).columns
    for task, own in some.by_task().items():
        all_ids = every.by_task()[task].item_N.tolist()
        assert own.item_N.tolist() == [i for i in all_ids if i in set(own.item_N)]
        assert len(own) == min(5, len(all_ids))


def test_the_same_items_for_more_are_kept(benchmark_folder: Path) -> None:
    questions = read_benchmarks(benchmark_folder, ("boolq",))["boolq"].questions
    three, seven = (some_of(questions, n, "boolq") for n in (3, 7))
    assert {q.id for q in three} < {q.id for q in seven}
    assert some_of(questions, None, "boolq") == questions


def test_forms_and_examples_fall_back_to_what_a_task_has() -> None:
    assert form_of(TASKS["mmlu"], "letters") == "letters"
    assert form_of(TASKS["blimp"], "letters") == "continuation"
    assert shots_of(TASKS["blimp"], 5) == 0
    assert shots_of(TASKS["mmlu"], 5) == 5
    assert shots_of(TASKS["mmlu"], None) == TASKS["mmlu"].shots


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("bolq", "bytes", "heal"), r"tasks: 'bolq': no such task; .*boolq"),
        (("boolq", "byte", "heal"), "no such method"),
        (("boolq", "bytes", "glue"), "no such method"),
    ],
)
def test_wrong_names_are_said_before_anything_runs(wrong: tuple[str, ...], message: str) -> None:
    task, normaliser, seam = wrong
    with pytest.raises(RecipeError, match=message):
        check_asking((task,), normaliser, seam, where="")


def test_missing_files_are_named(benchmark_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"mmlu: .* has none of mmlu"):
        tasks_in(benchmark_folder, ("boolq", "mmlu"))
    with pytest.raises(CorpusError, match="no file of any benchmark"):
        tasks_in(tmp_path, ())
    with pytest.raises(CorpusError, match="no such folder"):
        tasks_in(tmp_path / "nowhere", ())
    for name in ("piqa.jsonl", "piqa.csv", "boolq.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(CorpusError, match=r"both piqa.jsonl and piqa.csv; keep one"):
        tasks_in(tmp_path, ())  # a task that is there twice is no task that is missing


def test_a_run_keeps_what_it_was_asked(
    tiny_recipe: Path, benchmark_folder: Path, tmp_path: Path
) -> None:
    """Records of child and parent, results for the page, and a key that knows the files."""
    from pocketlm.pipeline import make, plan
    from pocketlm.recipe import load_recipe
    from pocketlm.stages.evaluate.records import CHILD_ITEMS, PARENT_ITEMS, rescore
    from pocketlm.summary import benchmark_notes

    changes = {
        "evaluate.data": str(benchmark_folder),
        "evaluate.tasks": ["piqa", "boolq"],
        "evaluate.speed_tokens": 0,
        "evaluate.context": 128,
        "train.rounds": 1,
    }
    recipe = load_recipe(tiny_recipe, changes=changes)
    run = make(recipe, out=tmp_path / "out", until="evaluate")
    artifact = run.artifacts["evaluate"]
    notes = benchmark_notes(artifact)
    assert notes is not None
    assert [line.task for line in notes.tasks] == ["boolq", "piqa"]
    assert all(line.parent and line.difference for line in notes.tasks)
    for name, file in (("child", CHILD_ITEMS), ("parent", PARENT_ITEMS)):
        again = {task.task: task.in_table.value for task in rescore(artifact.path(file)).tasks}
        assert again["piqa"] == run.scores[f"{name}.piqa"].value
    assert "child.average" not in run.scores  # that is the mean of all ten
    assert all(step.reused for step in plan(recipe, out=tmp_path / "out") if step.stage != "export")
    path = benchmark_folder / "piqa.jsonl"
    text = path.read_text()
    try:
        path.write_text(text.replace("Stir", "Turn"))
        changed = {step.stage: step.reused for step in plan(recipe, out=tmp_path / "out")}
    finally:
        path.write_text(text)
    assert not changed["evaluate"]
    assert changed["train"]


def test_any_model_is_evaluated_without_a_recipe(
    tiny_parent: Path, benchmark_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pocketlm.cli import run

    out = tmp_path / "records"
    words = ["evaluate", "--model", str(tiny_parent), "--data", str(benchmark_folder), "-q"]
    words += ["--set", "evaluate.speed_tokens=2", "--corpus", "stdlib"]
    words += ["--set", "evaluate.max_bytes=3000", "--set", "evaluate.items=4"]
    assert run([*words, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"model.boolq", "model.piqa", "model.xsum", "model.bits_per_byte"} <= found.keys()
    assert found["model.peak_bytes"] > 4 * found["model.params"]
    assert {p.name for p in out.iterdir()} == {"items.parquet", "benchmarks.json", "scores.json"}
    assert run([*words, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(words) == 0
    assert "boolq" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a recipe, or --model"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "MODEL", "--data", "nowhere"], "nowhere: no such folder"),
        (["--model", "MODEL", "--data", "DATA", "--tasks", "bolq"], "no such task"),
        (
            ["--model", "MODEL", "--data", "DATA", "--set", "train.rounds=1"],
            "only keys of evaluate",
        ),
        (["--model", "MODEL", "--tasks", "piqa"], "no benchmark is asked without data"),
        (["r.toml", "--model", "MODEL"], "a recipe names what is evaluated"),
    ],
)
def test_wrong_requests_are_one_line(
    words: list[str],
    message: str,
    tiny_parent: Path,
    benchmark_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pocketlm.cli import run

    places = {"MODEL": str(tiny_parent), "DATA": str(benchmark_folder)}
    assert run(["evaluate", *(places.get(word, word) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
