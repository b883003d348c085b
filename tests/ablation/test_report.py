"""A study's report: the same numbers in every file, whatever happened to the arms."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketlm.ablation.compare import compare
from pocketlm.ablation.report import markdown, numbers, sentences, write_report
from pocketlm.ablation.study import load_study
from pocketlm.ablation.summary import Comparison
from pocketlm.errors import StageError
from pocketlm.progress import SilentProgress


@pytest.fixture
def compared(tmp_path: Path, write_study: Any, pipeline: Any) -> Callable[..., Comparison]:
    """Compare the fake study, with `replace` as in `write_study`."""

    def run(replace: dict[str, str] | None = None) -> Comparison:
        return compare(
            load_study(write_study(replace)),
            out=tmp_path / "out",
            progress=SilentProgress(),
            make=pipeline.make,
            plan=pipeline.plan,
        )

    return run


def cells(text: str, arm: str) -> list[str]:
    """Cells of the first table row of `arm`."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {arm} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_table_and_json_hold_the_same_numbers(compared: Any) -> None:
    comparison = compared()
    row = numbers(comparison)["arms"][1]
    arm, verdict, score, difference, seeds, p, params, _ = cells(markdown(comparison), "one-round")
    assert (arm, verdict) == ("one-round", "worse")
    assert float(score) == pytest.approx(row["mean"], rel=1e-4)
    assert float(difference) == pytest.approx(row["delta"], rel=1e-3)
    ends = [float(end) for end in seeds.split(" to ")]
    assert ends == pytest.approx([row["low"], row["high"]], rel=1e-2)
    assert p == "< 0.0001" or float(p) == pytest.approx(row["p_holm"], abs=1e-4)
    assert params == "1k"
    assert row["delta"] == pytest.approx(
        sum(row[f"seed.{s}"] - numbers(comparison)["arms"][0][f"seed.{s}"] for s in range(3)) / 3
    )


def test_json_is_flat_and_strict(compared: Any, pipeline: Any) -> None:
    pipeline.effect = {2: 1.2, 1: float("nan"), 0: 1.2}
    text = json.dumps(numbers(compared()), allow_nan=False)  # refuses what JSON does not have
    for row in json.loads(text)["arms"]:
        assert all(isinstance(value, (int, float, str)) for value in row.values())


def test_files_are_written_and_named(compared: Any, tmp_path: Path) -> None:
    written = write_report(compared(), tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"comparison.{suffix}" for suffix in ("md", "svg", "html", "json")
    }
    assert all(path.exists() for path in written.values())
    assert json.loads(written["json"].read_text())["study"] == "rounds"
    html = written["html"].read_text()
    assert "default-src 'none'" in html
    assert not re.search(r'(src|href)="(?!#)', html)


def test_sentences_answer_every_arm(compared: Any, pipeline: Any) -> None:
    pipeline.fails = lambda recipe: StageError("no room") if recipe.train.rounds == 0 else None
    worse, failed = sentences(compared())
    assert worse.startswith("one-round is worse: +0.05")
    assert failed == "untrained failed: seed 0: StageError: no room."


def test_an_open_question_says_what_would_close_it(compared: Any) -> None:
    _, unclear = sentences(compared())
    assert re.search(r"not resolvable: .*; 3 seeds find \S+ or more, .*seeds would", unclear)


def test_one_seed_is_said_to_be_one(compared: Any, pipeline: Any) -> None:
    pipeline.documents = True
    sentence, _ = sentences(compared({"[0, 1, 2]": "[4]"}))
    assert sentence.startswith("one-round is not resolvable (one seed): +0.0")
    assert "over documents" in sentence


def test_a_study_where_everything_failed_still_reports(
    compared: Any, pipeline: Any, tmp_path: Path
) -> None:
    pipeline.fails = lambda recipe: StageError("<no> | way")
    written = write_report(compared(), tmp_path / "report")
    assert "&lt;no&gt; | way" in written["html"].read_text()
    assert "## Failed runs" in written["markdown"].read_text()


def test_nothing_run_yet_still_reports(compared: Any, tmp_path: Path) -> None:
    comparison = compared()
    empty = tuple(
        dataclasses.replace(
            arm, values={}, mean=None, params=None, difference=None, p_holm=None, verdict=None
        )
        for arm in comparison.arms
    )
    write_report(dataclasses.replace(comparison, arms=empty), tmp_path / "report")


def test_better_and_worse_differ_in_colour(compared: Any, tmp_path: Path) -> None:
    replace = {"train.rounds = 1": "train.rounds = 3"}
    svg = write_report(compared(replace), tmp_path / "a")["svg"].read_text()
    assert "var(--s3)" in svg
    assert "var(--s6)" not in svg
