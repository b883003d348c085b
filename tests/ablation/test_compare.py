"""Running a study: only what is missing, nothing stale, and failures are results."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketlm.ablation.compare import compare, estimate_seconds
from pocketlm.ablation.study import load_study
from pocketlm.ablation.summary import Comparison
from pocketlm.errors import Interrupted, RecipeError, StageError
from pocketlm.progress import SilentProgress

WriteStudy = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, pipeline: Any) -> Callable[[Path], Comparison]:
    """Load a study and compare with the fake pipeline."""

    def compare_it(path: Path) -> Comparison:
        return compare(
            load_study(path),
            out=tmp_path / "out",
            progress=SilentProgress(),
            make=pipeline.make,
            plan=pipeline.plan,
        )

    return compare_it


def test_runs_every_arm_and_seed_and_decides(run: Any, write_study: Any, pipeline: Any) -> None:
    comparison = run(write_study())
    assert pipeline.made[:4] == [
        "rounds.baseline.0", "rounds.one-round.0", "rounds.untrained.0", "rounds.baseline.1",
    ]  # fmt: skip
    assert len(pipeline.made) == 9
    assert [arm.verdict for arm in comparison.arms] == [None, "worse", "not resolvable"]
    assert comparison.unit == "bits/byte"
    assert comparison.arms[1].difference.mean == pytest.approx(0.05, abs=0.005)
    assert comparison.baseline.params == 1002


def test_a_finished_study_runs_nothing_again(run: Any, write_study: Any, pipeline: Any) -> None:
    path = write_study()
    first = run(path)
    pipeline.made.clear()
    assert run(path) == first
    assert pipeline.made == []


def test_a_changed_arm_runs_again_under_another_name(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    run(write_study())
    pipeline.made.clear()
    comparison = run(write_study({"train.rounds = 1": "train.rounds = 3"}))
    assert len(pipeline.made) == 3
    assert all(name.startswith("rounds.one-round.") for name in pipeline.made)
    assert all(name.count("-") == 2 for name in pipeline.made)  # the old run keeps its name
    assert comparison.arms[1].verdict == "better"


def test_a_changed_corpus_runs_everything_again_in_place(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    run(write_study())
    names = list(pipeline.made)
    pipeline.made.clear()
    pipeline.corpus = "other text"
    run(write_study())
    assert pipeline.made == names


def test_new_score_and_question_run_nothing(run: Any, write_study: Any, pipeline: Any) -> None:
    run(write_study())
    pipeline.made.clear()
    comparison = run(write_study({"seeds =": 'score = "child.params"\nseeds ='}))
    assert pipeline.made == []
    assert comparison.arms[1].verdict == "better"  # a parameter less, on every seed
    assert comparison.arms[1].documents is None


def test_a_failing_arm_is_recorded_and_tried_again(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    pipeline.fails = lambda recipe: StageError("no\nroom") if recipe.train.rounds == 1 else None
    comparison = run(write_study())
    failed = comparison.arms[1]
    assert failed.verdict == "failed"
    assert failed.errors[0] == "seed 0: StageError: no room"
    assert comparison.arms[2].verdict == "not resolvable"
    pipeline.fails = lambda recipe: None
    pipeline.made.clear()
    assert run(write_study()).arms[1].verdict == "worse"
    assert pipeline.made == [f"rounds.one-round.{seed}" for seed in range(3)]


def test_a_failed_run_under_another_name_keeps_that_name(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    run(write_study())
    changed = write_study({"train.rounds = 1": "train.rounds = 3"})
    pipeline.fails = lambda recipe: StageError("no") if recipe.train.rounds == 3 else None
    pipeline.made.clear()
    run(changed)
    run(changed)
    assert pipeline.made[:3] == pipeline.made[3:]


def test_not_a_number_is_a_failure(run: Any, write_study: Any, pipeline: Any) -> None:
    pipeline.effect = {2: 1.2, 1: float("nan"), 0: 1.2}
    comparison = run(write_study())
    assert comparison.arms[1].verdict == "failed"
    assert comparison.arms[1].errors[0].endswith("child.bits_per_byte is nan")


def test_a_failed_baseline_leaves_arms_unjudged(run: Any, write_study: Any, pipeline: Any) -> None:
    pipeline.fails = lambda recipe: StageError("no") if recipe.train.rounds == 2 else None
    comparison = run(write_study())
    assert [arm.verdict for arm in comparison.arms] == [None, "failed", "failed"]
    assert comparison.arms[1].mean is not None


def test_interruption_stops_the_study_and_resumes(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    pipeline.fails = lambda recipe: Interrupted("stopped") if recipe.seed == 1 else None
    with pytest.raises(Interrupted):
        run(write_study())
    pipeline.fails = lambda recipe: None
    pipeline.made.clear()
    run(write_study())
    assert len(pipeline.made) == 6


def test_a_damaged_record_is_redone(
    run: Any, write_study: Any, pipeline: Any, tmp_path: Path
) -> None:
    run(write_study())
    pipeline.made.clear()
    (tmp_path / "out" / "studies" / "rounds" / "untrained-1.json").write_text("{")
    run(write_study())
    assert pipeline.made == ["rounds.untrained.1"]


def test_what_a_plan_refuses_stops_the_study_before_it_starts(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    pipeline.refused_rounds = 0
    with pytest.raises(RecipeError, match=r"arm 'untrained': .* refused by the plan"):
        run(write_study())
    assert pipeline.made == []


def test_an_unknown_score_names_the_nearest(run: Any, write_study: Any) -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'child.bits_per_byte'\?"):
        run(write_study({"seeds =": 'score = "bits_per_byte"\nseeds ='}))


def test_one_seed_shows_the_documents(run: Any, write_study: Any, pipeline: Any) -> None:
    pipeline.documents = True
    comparison = run(write_study({"[0, 1, 2]": "[0]"}))
    arm = comparison.arms[1]
    assert arm.verdict == "not resolvable (one seed)"
    assert arm.p_holm is None
    low, high = arm.documents
    assert low < arm.difference.mean < high


def test_documents_outlive_their_run(
    run: Any, write_study: Any, pipeline: Any, tmp_path: Path
) -> None:
    import shutil

    pipeline.documents = True
    first = run(write_study())
    shutil.rmtree(tmp_path / "out" / "runs")
    assert run(write_study()) == first
    assert first.arms[1].documents is not None


def test_estimate_counts_shared_stages_once(
    write_study: Any, pipeline: Any, tmp_path: Path, run: Any
) -> None:
    study = load_study(write_study())
    fakes = {"plan": pipeline.plan, "cost": pipeline.cost}
    assert estimate_seconds(study, out=tmp_path / "out", **fakes) == 10 + 9 * 5
    run(write_study())
    assert estimate_seconds(study, out=tmp_path / "out", **fakes) == 0


def test_records_are_numbers_with_units(run: Any, write_study: Any, tmp_path: Path) -> None:
    run(write_study())
    record = json.loads((tmp_path / "out/studies/rounds/baseline-0.json").read_text())
    assert record["scores"]["child.bits_per_byte"]["unit"] == "bits/byte"
    assert record["run"] == "rounds.baseline.0"


def test_a_finished_study_of_twenty_arms_answers_at_once(
    run: Any, write_study: Any, pipeline: Any
) -> None:
    arms = "".join(f"[arms.a{n}]\ntrain.rounds = {n}\n" for n in range(3, 21))
    pipeline.effect = dict.fromkeys(range(21), 1.2)
    pipeline.documents = True
    path = write_study({"[arms.untrained]": f"{arms}[arms.untrained]"})
    run(path)
    pipeline.made.clear()
    start = time.monotonic()
    comparison = run(path)
    assert time.monotonic() - start < 2
    assert len(comparison.arms) == 21
    assert pipeline.made == []
