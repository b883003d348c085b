"""Our benchmarks as tasks of lm-evaluation-harness: a folder of YAML files with their questions.

    pocketlm_boolq.yaml    what lm-eval needs to know, read by it offline (dataset_path: json)
    pocketlm_boolq.jsonl   one line an item: query, choices, gold, as `build_items` makes them

Prompts are made here, examples included, so that lm-eval adds nothing to them. Writing the folder
needs no lm-eval. Every value in the YAML is written as JSON, which is YAML too.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.errors import OutputError
from pocketlm.stages.evaluate.benchmarks import Asking, form_of, items_of, shots_of
from pocketlm.stages.evaluate.find import Benchmark
from pocketlm.stages.evaluate.items import Item, Task
from pocketlm.stages.evaluate.rouge import KINDS, rouge
from pocketlm.stages.evaluate.tasks import TASKS
from pocketlm.stages.evaluate.writing import Pen

TAG = "pocketlm"
"""What lm-eval calls all tasks of the folder together; a task's name is `pocketlm_TASK`."""
_ROUGE = "pocketlm_rouge"
_METRICS = {"accuracy": ("acc", "acc_norm"), "mcc": ("acc", "mcc"), "rouge": KINDS}
_AGGREGATIONS = {"mcc": "matthews_corrcoef"}
_ROUGE_PY = '''"""ROUGE as pocketlm measures it; lm-eval would fetch its own."""

from pocketlm.stages.evaluate.lm_eval_tasks import rouge_results as results
'''


def write_lm_eval_tasks(
    folder: Path, benchmarks: Mapping[str, Benchmark], asking: Asking
) -> tuple[Path, ...]:
    """Write tasks that ask what `benchmarks.ask` would; returns the YAML files.

    `folder` must be new or empty: the YAML files name their data by its absolute path. Raises
    `OutputError`, and `CorpusError` where examples are missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder}: is not empty; give a new folder for lm-eval's tasks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    written = []
    for name, benchmark in benchmarks.items():
        task = TASKS[name]
        items = items_of(task, benchmark, asking)
        delimiter = _delimiter(items)
        data = (folder / f"{TAG}_{name}.jsonl").resolve()
        rows = (json.dumps(_row(item, delimiter), ensure_ascii=False) for item in items)
        data.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="\n")
        keys = _keys(task, data, delimiter) | _about(task, benchmark, asking)
        written.append(folder / f"{TAG}_{name}.yaml")
        written[-1].write_text(_yaml(keys), encoding="utf-8", newline="\n")
        if task.metric == "rouge":
            (folder / f"{_ROUGE}.py").write_text(_ROUGE_PY, encoding="utf-8")
    return tuple(written)


def rouge_results(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's `process_results` for written answers: ROUGE of one, in 0 to 1.

    Blanks around it and lines after the first do not count, as in our own writing.
    """
    written = results[0].strip().partition("\n")[0]
    values = rouge([(written, row["reference"])])[0]
    return dict(zip(KINDS, map(float, values), strict=True))


def _row(item: Item, delimiter: str) -> dict[str, Any]:
    question = item.question
    row = {"id": question.id, "part": question.part, "cluster": question.cluster}
    row |= {"query": item.context}
    if item.form == "generation":
        return row | {"reference": question.reference}
    choices = [choice.removeprefix(delimiter) for choice in item.choices]
    return row | {"choices": choices, "gold": item.places.index(question.gold)}


def _delimiter(items: Sequence[Item]) -> str:
    """What stands before every choice: lm-eval counts a choice's characters without it."""
    choices = (choice for item in items for choice in item.choices)
    return " " if all(choice.startswith(" ") for choice in choices) else ""


def _keys(task: Task, data: Path, delimiter: str) -> dict[str, Any]:
    """lm-eval's keys: where the rows are and what their columns mean."""
    metrics = [
        {"metric": name, "aggregation": _AGGREGATIONS.get(name, "mean"), "higher_is_better": True}
        for name in _METRICS[task.metric]
    ]
    keys: dict[str, Any] = {
        "task": f"{TAG}_{task.name}",
        "tag": [TAG],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "query",
    }
    if task.metric == "rouge":
        pen = Pen()
        keys |= {
            "output_type": "generate_until",
            "doc_to_target": "reference",
            "generation_kwargs": {"until": [], "max_gen_toks": pen.new_tokens, "do_sample": False},
            "process_results": _Function(f"{_ROUGE}.results"),
        }
    else:
        keys |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": delimiter,
        }
    return keys | {"metric_list": metrics}


def _about(task: Task, benchmark: Benchmark, asking: Asking) -> dict[str, Any]:
    """What should be known with the numbers."""
    said = {
        "version": 1.0,
        "form": form_of(task, asking.form),
        "shots": shots_of(task, asking.shots),
        "files": dict(benchmark.sha256),
        "source": task.source,
    }
    return {"metadata": said}


class _Function(str):
    """A Python function by its name, for YAML's `!function`."""

    __slots__ = ()


def _yaml(keys: Mapping[str, Any]) -> str:
    lines = []
    for key, value in keys.items():
        plain = isinstance(value, _Function)
        said = f"!function {value}" if plain else json.dumps(value, ensure_ascii=False)
        lines.append(f"{key}: {said}\n")
    return "".join(lines)
