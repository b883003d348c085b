"""Benchmarks of a run: the same questions to the child and its parent."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.artifact import HashCache, Score
from pocketlm.recipe import EvaluateTable, Recipe
from pocketlm.steps.materials import Materials, Scores, write_json

if TYPE_CHECKING:
    from pocketlm.stages.evaluate import Model
    from pocketlm.stages.evaluate.benchmarks import Asking, Identity


def benchmark_files(recipe: Recipe, hashes: HashCache) -> dict[str, dict[str, str]]:
    """Task -> file -> sha256 of all that the recipe asks; raises `CorpusError` for missing ones."""
    from pocketlm.stages.evaluate.benchmarks import tasks_in
    from pocketlm.stages.evaluate.find import find_task_files

    table = recipe.evaluate
    if table.data is None:
        return {}
    folder = Path(table.data)
    return {
        task.name: {
            path.relative_to(folder).as_posix(): hashes.sha256(path)
            for path in find_task_files(folder, task).all
        }
        for task in tasks_in(folder, table.tasks)
    }


def run_benchmarks(run: Materials, models: "dict[str, Model]", files: Path) -> Scores:
    """Ask every model; writes records of each and benchmarks.json, returns the main numbers."""
    from pocketlm.stages.evaluate.benchmarks import ask, read_benchmarks
    from pocketlm.stages.evaluate.records import CHILD_ITEMS, PARENT_ITEMS, write_records
    from pocketlm.stages.evaluate.results import results

    table = run.recipe.evaluate
    if table.data is None:
        return {}
    benchmarks = read_benchmarks(Path(table.data), table.tasks)
    largest = max(model.num_params for model in models.values())
    context = table.context or run.recipe.train.seq_len
    asking = asking_of(table, num_params=largest, context=context)
    kept, scores = {}, {}
    for name, model in models.items():
        answered = ask(
            model.network, model.tokenizer, benchmarks, asking, _identity(run, name),
            progress=run.progress,
        )  # fmt: skip
        kept[name] = answered.columns, answered.provenance
        path = files / {"child": CHILD_ITEMS, "parent": PARENT_ITEMS}[name]
        write_records(answered.columns, answered.provenance, path)
        scores[f"{name}.benchmark_tokens"] = Score(answered.tokens_read, "tokens read")
    table_of_results = results(kept, seed=run.recipe.seed)
    write_json(files / "benchmarks.json", table_of_results)
    for name in models:
        scores |= task_scores(table_of_results["models"][name], f"{name}.")
    return scores


def asking_of(table: EvaluateTable, *, num_params: int, context: int) -> "Asking":
    """How `[evaluate]` asks a model of this size, or several of which this is the largest."""
    from pocketlm.stages.evaluate.benchmarks import LETTERS_FROM, Asking
    from pocketlm.stages.evaluate.choice import Reading

    form = table.form
    if form == "auto":
        form = "letters" if num_params >= LETTERS_FROM else "cloze"
    return Asking(
        form=form,
        items=table.items,
        shots=table.shots,
        normaliser=table.normaliser,
        how=Reading(context_tokens=context, seam=table.seam),
    )


def task_scores(found: dict[str, Any], prefix: str) -> Scores:
    """What stands in the paper's table, from one model of benchmarks.json: `child.boolq`, ..."""
    scores: Scores = {}
    for task in found["tasks"]:
        value, low, high = (task["in_table"][key] for key in ("value", "low", "high"))
        unit = "ROUGE-1 F" if task["form"] == "generation" else "accuracy"
        scores[f"{prefix}{task['task']}"] = Score(value, unit)
        if low is not None:
            scores[f"{prefix}{task['task']}_low"] = Score(low, unit)
            scores[f"{prefix}{task['task']}_high"] = Score(high, unit)
        bits = task["bits_per_byte"]["value"]
        scores[f"{prefix}{task['task']}_bits_per_byte"] = Score(bits, "bits/byte of right answers")
    if found["paper"] is not None and not found["missing"]:
        scores[f"{prefix}average"] = Score(found["paper"]["score"]["value"], "mean of the ten")
    return scores


def _identity(run: Materials, name: str) -> "Identity":
    """Keys of the artifacts or the parent behind a model: contents, not paths."""
    from pocketlm.stages.evaluate.benchmarks import Identity

    if name == "child":
        return Identity(tokenizer=run.made["compact"].key, weights=run.made["train"].key)
    key = hashlib.sha256(str(run.inputs.parent_key).encode()).hexdigest()
    return Identity(tokenizer=key, weights=key)
