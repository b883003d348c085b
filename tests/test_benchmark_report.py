"""The benchmarks on a run's page: from benchmarks.json to the table, where there is one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketlm.artifact import Artifact
from pocketlm.errors import DamagedArtifact
from pocketlm.run_report import RunReport, Side, run_report
from pocketlm.run_report.benchmark_notes import read_benchmarks
from pocketlm.run_report.benchmarks import benchmark_section
from pocketlm.stages.evaluate.columns import from_records
from pocketlm.stages.evaluate.items import Record
from pocketlm.stages.evaluate.provenance import Origin, Provenance
from pocketlm.stages.evaluate.results import results
from pocketlm.summary import benchmark_notes

TASKS = {
    "mmlu": Origin(group="Examination", in_paper=True, metric="accuracy", form="letters", shots=5,
                   data={"mmlu.csv": "1"}),
    "axb": Origin(group="Reasoning", in_paper=True, metric="mcc", form="cloze", shots=0,
                  data={"axb.jsonl": "2"}),
    "blimp": Origin(group="Language", in_paper=False, metric="accuracy", form="continuation",
                    shots=0, data={"blimp.jsonl": "3"}),
}  # fmt: skip
PROVENANCE = Provenance(tasks=TASKS, tokenizer="t", weights="w", seam="healed")


def model(share: float) -> Any:
    rng = np.random.default_rng(round(1000 * share))
    records = [
        Record(
            task=task, form=origin.form, item=str(n), part=f"p{n % 2}", cluster=str(n), gold=n % 2,
            nats=(1.0, 2.0) if (rng.random() < share) == (n % 2 == 0) else (2.0, 1.0),
            tokens=(1, 1), num_bytes=(4, 4), num_characters=(4, 4), context_tokens=5,
            context_cut=int(task == "mmlu" and n < 7), seam=2 * int(task == "axb" and n < 4),
            prompt_sha256=f"{task} {n}",
        )
        for task, origin in TASKS.items()
        for n in range(150)
    ]  # fmt: skip
    return from_records(records), PROVENANCE


@pytest.fixture(scope="module")
def both() -> dict[str, Any]:
    return json.loads(json.dumps(results({"child": model(0.45), "parent": model(0.9)})))


def test_the_page_shows_the_numbers_of_the_file(both: dict[str, Any]) -> None:
    html = "".join(benchmark_section(read_benchmarks(both, "here")))
    rows = {row["task"]: row for row in both["models"]["child"]["tasks"]}
    for text in (
        "<svg", "Examination", "Reasoning", "Language", "MMLU", "AX-b", "BLiMP", "letters, 5-shot",
        f">{100 * rows['mmlu']['by_part']['value']:.1f}<", f">{100 * rows['axb']['majority']:.1f}<",
        "worse", "mean of 2", "child: MMLU 7.", "(healed), child: AX-b 8.", "child: none.",
        "Not run", "C-Eval, CMMLU", "Holm",
    ):  # fmt: skip
        assert text in html, text
    assert html.count("worse") >= 3


def test_a_child_alone_has_its_intervals_and_no_verdicts(both: dict[str, Any]) -> None:
    alone = {"format": 1, "models": {"child": both["models"]["child"]}}
    html = "".join(benchmark_section(read_benchmarks(alone, "here")))
    own = both["models"]["child"]["tasks"][1]["score"]
    assert f"{100 * own['low']:.1f} to {100 * own['high']:.1f}" in html
    for text in ("worse", "parent", "Holm"):
        assert text not in html, text


def test_the_section_is_there_when_there_is_something_to_say(both: dict[str, Any]) -> None:
    side = Side(params=1, num_bytes=2, vocab_size=3, params_by_part={"embedding": 1})
    report = RunReport(name="run", lineage=[], child=side, recipe_toml="")
    assert "<h2>Benchmarks</h2>" not in run_report(report)
    shown = run_report(dataclasses.replace(report, benchmarks=read_benchmarks(both, "here")))
    assert "<h2>Benchmarks</h2>" in shown


def test_an_artifact_without_benchmarks_has_no_notes(tmp_path: Path, both: dict[str, Any]) -> None:
    assert benchmark_notes(Artifact(tmp_path)) is None
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps(both))
    notes = benchmark_notes(Artifact(tmp_path))
    assert notes is not None
    assert [line.task for line in notes.tasks] == ["mmlu", "axb", "blimp"]
    path.write_text(json.dumps({**both, "format": 2}))
    with pytest.raises(DamagedArtifact, match=r"benchmarks\.json: format 2"):
        benchmark_notes(Artifact(tmp_path))
    path.write_text(json.dumps({"format": 1, "models": {}}))
    with pytest.raises(DamagedArtifact, match="not the results of benchmarks"):
        benchmark_notes(Artifact(tmp_path))
