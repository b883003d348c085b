"""benchmarks.json: what an evaluate artifact says about benchmarks, for reports and other programs.

    format       1
    models       child, parent -> normaliser, tasks, groups, paper, by_item, missing (`Benchmarks`;
                 every task also `in_table`), and their provenance: tokenizer, weights, seam, more
    difference   child minus parent (`Differences`, the parent first); absent without a parent

Shares are 0 to 1, numbers with an interval are {value, low, high, error}, null where there is none.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pocketlm.stages.evaluate.averages import score_all
from pocketlm.stages.evaluate.differences import Kept, compare_records

FORMAT = 1


def results(
    models: Mapping[str, Kept], *, normaliser: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """The table behind benchmarks.json for `child` and, where there is one, `parent`.

    `normaliser` is the records' own unless another is named. Raises `UserError` where child and
    parent were not asked the same.
    """
    table: dict[str, Any] = {
        "format": FORMAT,
        "models": {
            name: _model(kept, normaliser=normaliser, seed=seed) for name, kept in models.items()
        },
    }
    if {"child", "parent"} <= models.keys():
        found = compare_records(models["parent"], models["child"], normaliser=normaliser, seed=seed)
        table["difference"] = asdict(found)
    return table


def _model(kept: Kept, *, normaliser: str | None, seed: int) -> dict[str, Any]:
    columns, provenance = kept
    benchmarks = score_all(columns, provenance, normaliser=normaliser, seed=seed)
    table = asdict(benchmarks)
    for row, task in zip(table["tasks"], benchmarks.tasks, strict=True):
        row["in_table"] = asdict(task.in_table)
    about = asdict(provenance)
    return table | {key: about[key] for key in ("tokenizer", "weights", "seam", "versions", "more")}
