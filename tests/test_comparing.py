"""`show RUN RUN`: held-out text by document, benchmarks by item, and what is not comparable."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketlm.artifact import Artifact
from pocketlm.comparing import compare_runs
from pocketlm.errors import DamagedArtifact, RecipeError
from pocketlm.recipe import Recipe
from pocketlm.runs import Run
from pocketlm.stages.evaluate.columns import from_records
from pocketlm.stages.evaluate.items import Record
from pocketlm.stages.evaluate.provenance import Origin, Provenance
from pocketlm.stages.evaluate.records import CHILD_ITEMS, write_records

PROVENANCE = Provenance(
    tasks={
        "boolq": Origin(group="Knowledge", in_paper=True, metric="accuracy", form="cloze", shots=0,
                        data={"boolq.jsonl": "1"}),
        "axb": Origin(group="Reasoning", in_paper=True, metric="mcc", form="cloze", shots=0,
                      data={"axb.jsonl": "2"}),
    },
    tokenizer="t", weights="w", seam="healed",
)  # fmt: skip


def _recipe(name: str) -> Recipe:
    tables = {"corpus": {"files": ["x"]}, "design": {"max_params": 1000}}
    return Recipe.model_validate({"name": name, "tokenizer": "t.json", **tables})


def a_run(folder: Path, name: str, *, rate: float, first: int = 0) -> Run:
    """80 documents at about `rate` bits a byte, numbered from `first`."""
    folder = folder / name
    folder.mkdir()
    number_N = np.arange(first, first + 80)
    bytes_N = 100 + 7 * (number_N % 13)
    bits_N = bytes_N * (rate + 0.01 * np.sin(number_N))
    table = {"text_sha256": [f"{n:064x}" for n in number_N], "bytes": bytes_N, "child_bits": bits_N}
    pq.write_table(pa.table(table), folder / "documents.parquet")
    return Run(name, folder, _recipe(name), {"evaluate": Artifact(folder)})


def with_items(run: Run, share: float, tasks: tuple[str, ...] = ("boolq", "axb")) -> None:
    rng = np.random.default_rng(round(1000 * share))
    records = []
    for task in tasks:
        for n in range(120):
            right = rng.random() < share
            records.append(
                Record(
                    task=task, form="cloze", item=str(n), part="all", cluster=str(n), gold=n % 2,
                    nats=(1.0, 2.0) if right == (n % 2 == 0) else (2.0, 1.0), tokens=(1, 1),
                    num_bytes=(4, 4), num_characters=(4, 4), context_tokens=5, context_cut=0,
                    seam=0, prompt_sha256=f"{task} {n}",
                )
            )  # fmt: skip
    path = run.artifacts["evaluate"].folder / CHILD_ITEMS
    write_records(from_records(records), PROVENANCE, path)


def test_text_is_compared_by_document(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "a", rate=1.5), a_run(tmp_path, "b", rate=1.4, first=30)
    found = compare_runs(first, second)
    assert found.text is not None
    assert found.text.num_documents == 50
    assert found.text.difference.value == pytest.approx(-0.1, abs=1e-9)
    assert found.text.verdict == "better"
    assert found.text.second - found.text.first == pytest.approx(-0.1, abs=1e-9)
    shown = "\n".join(found.lines())
    assert "-0.1000" in shown
    assert "no benchmark records in a and b" in shown
    assert compare_runs(second, first).text.verdict == "worse"


def test_other_corpora_share_no_text(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "a", rate=1.5), a_run(tmp_path, "b", rate=1.4, first=500)
    found = compare_runs(first, second)
    assert found.text is None
    assert "no held-out text in common" in found.notes[0]


def test_benchmarks_are_compared_by_item(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "a", rate=1.5), a_run(tmp_path, "b", rate=1.5)
    with_items(first, 0.4)
    with_items(second, 0.8, ("boolq",))
    found = compare_runs(first, second)
    assert found.benchmarks is not None
    assert [task.verdict for task in found.benchmarks.tasks] == ["better"]
    lines = "\n".join(found.lines())
    said = ("boolq", "mean of 1", "seen four times in five: boolq", "in a alone: axb", "not resolv")
    for text in said:
        assert text in lines, text
    table = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert table["benchmarks"]["tasks"][0]["verdict"] == "better"
    back = compare_runs(second, first).benchmarks
    assert back is not None
    assert back.tasks[0].verdict == "worse"
    with_items(second, 0.8)
    assert "Matthews correlation, B - A: axb +" in "\n".join(compare_runs(first, second).lines())


def test_a_run_without_evaluation_or_with_a_damaged_one_is_named(tmp_path: Path) -> None:
    first = a_run(tmp_path, "a", rate=1.5)
    bare = Run("bare", tmp_path, _recipe("bare"), {})
    with pytest.raises(RecipeError, match="run 'bare' has no evaluation"):
        compare_runs(first, bare)
    (tmp_path / "a" / "documents.parquet").write_bytes(b"nothing")
    with pytest.raises(DamagedArtifact, match=r"documents\.parquet"):
        compare_runs(first, first)
