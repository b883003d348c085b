"""The whole pipeline on a tiny parent: made once, reused, resumed, rebuilt where it must be."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import (
    BudgetError,
    CorpusError,
    DamagedArtifact,
    OutputError,
    ParentError,
    RecipeError,
    UserError,
)
from pocketlm.pipeline import make, plan
from pocketlm.recipe import Recipe, load_recipe
from pocketlm.runs import Run, open_run

ALL = {
    "counts",
    "compact",
    "design",
    "tokens",
    "calibration",
    "inherit",
    "train",
    "evaluate",
    "export",
}
MADE_FROM_INHERIT = {"inherit", "train", "evaluate", "export"}


# They hold seconds.
MEASURED = ("log.jsonl", "files.json", "card.md", "huggingface/README.md")


@pytest.fixture(scope="module")
def made(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(load_recipe(tiny_recipe), out=tmp_path_factory.mktemp("out"))


@pytest.fixture
def copied(made: Run, tmp_path: Path) -> Path:
    """An OUT folder of one's own with the finished run in it."""
    shutil.copytree(made.folder.parent.parent, tmp_path / "out", symlinks=True)
    return tmp_path / "out"


@pytest.fixture
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(tiny_recipe)


def files_of(run: Run) -> dict[str, str]:
    """sha256 of what decides what the child is: weights, tokenizer, data, exported files."""
    return {
        f"{stage}/{name}": entry["sha256"]
        for stage in ("compact", "tokens", "inherit", "train", "export")
        for name, entry in run.artifacts[stage].manifest["files"].items()
        if name not in MEASURED
    }


def test_every_stage_leaves_its_artifact(made: Run) -> None:
    assert set(made.artifacts) == ALL
    assert made.reused == frozenset()
    for number, stage in enumerate(
        ("compact", "design", "inherit", "train", "evaluate", "export"), start=1
    ):
        link = made.folder / f"{number}-{stage}"
        assert link.is_symlink()
        assert (link / "manifest.json").is_file()


def test_the_numbers_hang_together(made: Run) -> None:
    scores = {name: score.value for name, score in made.scores.items()}
    assert scores["compact.vocab_size"] == 330
    assert scores["child.params"] == scores["design.params"] <= 17_000
    assert scores["child.params"] < scores["parent.params"]
    assert scores["child.bits_per_byte"] > 0
    assert scores["difference.bits_per_byte"] == pytest.approx(
        scores["child.bits_per_byte"] - scores["parent.bits_per_byte"]
    )
    assert scores["train.tokens"] == pytest.approx(1.5 * scores["tokens.train_tokens"], rel=0.02)


def test_a_second_make_reuses_everything(recipe: Recipe, made: Run) -> None:
    again = make(recipe, out=made.folder.parent.parent)
    assert again.reused == ALL
    assert again.scores == made.scores
    assert all(step.reused for step in plan(recipe, out=made.folder.parent.parent))


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("inherit", ALL - MADE_FROM_INHERIT),
        ("evaluate", ALL - {"evaluate"}),
    ],
)
def test_a_deleted_artifact_rebuilds_only_itself_and_what_follows(
    recipe: Recipe, made: Run, copied: Path, stage: str, kept: set[str]
) -> None:
    shutil.rmtree(copied / "store" / made.artifacts[stage].folder.name)
    expected = {step.stage for step in plan(recipe, out=copied) if step.reused}
    again = make(recipe, out=copied)
    assert again.reused == kept == expected
    assert files_of(again) == files_of(made)


def test_redo_makes_a_stage_again(recipe: Recipe, copied: Path) -> None:
    assert make(recipe, out=copied, redo="export").reused == ALL - {"export"}
    with pytest.raises(RecipeError, match="no stage 'exprot'; stages are compact"):
        make(recipe, out=copied, redo="exprot")


def test_only_what_a_change_touches_is_made(
    recipe: Recipe, tiny_recipe: Path, copied: Path
) -> None:
    def reused(**changes: Any) -> set[str]:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        steps = plan(load_recipe(tiny_recipe, changes=keys), out=copied)
        return {step.stage for step in steps if step.reused}

    assert reused() == ALL
    assert reused(name="other") == ALL - {"export"}  # files carry the name
    assert reused(train__checkpoint_seconds=5.0) == ALL
    assert reused(train__rounds=1) == ALL - {"train", "evaluate", "export"}
    assert reused(seed=1) == ALL - {"train", "evaluate", "export"}
    assert reused(evaluate__sample_tokens=3) == ALL - {"evaluate"}
    assert reused(inherit__neurons="l1") == ALL - MADE_FROM_INHERIT
    assert reused(inherit__neurons="energy") == ALL - MADE_FROM_INHERIT  # as measured for `auto`
    recalibrated = ALL - MADE_FROM_INHERIT - {"calibration"}
    assert reused(inherit__calibration_blocks=7) == recalibrated
    assert reused(inherit__neurons="taylor") == recalibrated
    assert reused(corpus__max_bytes=30_000) == set()


def test_methods_without_text_need_no_calibration(tiny_recipe: Path) -> None:
    data_free = {"neurons": "l2", "hidden": "score", "norm_energy": False, "refit": "none"}
    changes = {f"inherit.{key}": value for key, value in data_free.items()}

    def keys(**more: Any) -> dict[str, str]:
        recipe = load_recipe(tiny_recipe, changes={**changes, **more})
        return {step.stage: step.key for step in plan(recipe)}

    assert keys(**{"inherit.calibration_blocks": 7}) == keys()
    assert keys(**{"inherit.neurons": "energy"})["calibration"] != keys()["calibration"]


def test_another_size_and_score_cost_no_new_calibration(tiny_recipe: Path, tmp_path: Path) -> None:
    """One pass over the parent serves every target and every method that reads it."""

    def made(**changes: Any) -> Run:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        recipe = load_recipe(tiny_recipe, changes={"inherit.calibration_blocks": 8, **keys})
        return make(recipe, out=tmp_path, until="inherit")

    first = made(name="a", inherit__neurons="energy")
    assert first.scores["calibration.tokens"].value == 8 * 32
    other = made(name="b", inherit__neurons="activation", design__max_params=14_000)
    assert other.reused == {"counts", "compact", "tokens", "calibration"}
    kept = first.artifacts["inherit"].manifest["files"]
    again = make(
        load_recipe(
            tiny_recipe,
            changes={
                "name": "a",
                "inherit.calibration_blocks": 8,
                "inherit.neurons": "energy",
            },
        ),
        out=tmp_path,
        until="inherit",
        redo="inherit",
    )
    assert again.artifacts["inherit"].manifest["files"] == kept


def test_masks_are_learned_once_for_a_shape(tiny_recipe: Path, tmp_path: Path) -> None:
    """What is done with them later costs no new ones; another shape, step or draw does."""

    def changed(**changes: Any) -> Recipe:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        masked = {
            "inherit.neurons": "mask",
            "inherit.mask_steps": 3,
            "inherit.mask_weights": "trained",
            "inherit.calibration_blocks": 8,
        }
        return load_recipe(tiny_recipe, changes={**masked, **keys})

    run = make(changed(), out=tmp_path, until="inherit")
    files = run.artifacts["calibration"].manifest["files"]
    assert {"hidden.mask.npy", "mask.target.npy", "trained/model.safetensors"} <= set(files)
    again = make(changed(name="other", inherit__refit="output"), out=tmp_path, until="inherit")
    assert again.reused == ALL - MADE_FROM_INHERIT
    redone = make(changed(), out=tmp_path, until="inherit", redo="calibration")
    assert (
        redone.artifacts["inherit"].manifest["files"] == run.artifacts["inherit"].manifest["files"]
    )
    for other in (
        {"design__max_params": 14_000},
        {"inherit__mask_steps": 4},
        {"inherit__mask_weights": "frozen"},
        {"seed": 1},
    ):
        steps = plan(changed(name="other", **other), out=tmp_path)
        assert "calibration" not in {step.stage for step in steps if step.reused}, other


def test_every_part_of_inherit_from_a_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    changes = {
        "inherit.layers": "greedy",
        "inherit.neurons": "fisher",
        "inherit.hidden": "rotate",
        "inherit.norm_energy": True,
        "inherit.refit": "stream",
        "inherit.calibration_blocks": 6,
    }
    run = make(load_recipe(tiny_recipe, changes=changes), out=tmp_path, until="inherit")
    files = run.artifacts["calibration"].manifest["files"]
    assert {"ids_NT1.npy", "moment.npy", "hidden.fisher.npy"} <= set(files)
    assert run.scores["inherit.params"].value <= 17_000


def test_killed_while_training_and_run_again(tiny_recipe: Path, made: Run, tmp_path: Path) -> None:
    """kill -9 as soon as there is a checkpoint; the second run ends with the same files."""
    command = [
        sys.executable,
        "-m",
        "pocketlm",
        "make",
        str(tiny_recipe),
        "--out",
        str(tmp_path),
        "-q",
    ]
    longer = ["--set", "train.rounds=6", "--set", "train.keep_fraction=1.0", "--set", "name=long"]
    with subprocess.Popen(command + longer, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 600  # a busy machine is no failure
            while not list(tmp_path.glob("store/.building/train-*/resume/step-*/manifest.json")):
                assert process.poll() is None, "ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()  # SIGKILL
    assert not list(tmp_path.glob("store/train-*"))
    recipe = load_recipe(
        tiny_recipe, changes={"train.rounds": 6, "train.keep_fraction": 1.0, "name": "long"}
    )
    resumed = make(recipe, out=tmp_path)
    whole = make(recipe, out=tmp_path / "undisturbed")
    assert files_of(resumed) == files_of(whole)


def test_a_parent_made_by_its_own_recipe(
    tiny_recipe: Path, tiny_text: Path, tmp_path: Path
) -> None:
    """The parent is built first, in the same store, and known by its keys before it exists."""
    (tmp_path / "parent.toml").write_text(
        f"""
name = "grown"
tokenizer = {{ train = 320 }}
corpus = {{ files = [{json.dumps(str(tiny_text))}] }}
design.shape = {{ layers = 2, hidden = 32, heads = 2, kv_heads = 1, ffn = 64 }}
train = {{ rounds = 1, seq_len = 32, batch_tokens = 512, learning_rate = 1e-2 }}
evaluate = {{ speed_tokens = 0, sample_tokens = 0 }}
"""
    )
    changes = {
        "parent": {"recipe": str(tmp_path / "parent.toml")},
        "compact.vocab_size": 290,
        "design.max_params": 15_000,
        "name": "child-of-grown",
    }
    recipe = load_recipe(tiny_recipe, changes=changes)
    before = plan(recipe, out=tmp_path)
    assert [step.run for step in before] == ["grown"] * len(ALL) + ["child-of-grown"] * len(ALL)
    run = make(recipe, out=tmp_path)
    assert {step.key for step in before} == {step.key for step in plan(recipe, out=tmp_path)}
    assert all(step.reused for step in plan(recipe, out=tmp_path))
    grown = open_run("grown", out=tmp_path)
    assert "parent.bits_per_byte" not in grown.scores
    assert run.scores["parent.bits_per_byte"].value == pytest.approx(
        grown.scores["child.bits_per_byte"].value
    )


def break_parent(how: str) -> Callable[[Path], None]:
    def breaker(folder: Path) -> None:
        weights = folder / "model.safetensors"
        if how == "missing":
            shutil.rmtree(folder)
        elif how == "corrupt":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif how == "pickled":
            weights.rename(folder / "pytorch_model.bin")

    return breaker


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "no such folder"),
        ("corrupt", "model.safetensors: damaged or cut short"),
        ("pickled", "pickled checkpoints are not loaded"),
    ],
)
def test_a_parent_that_cannot_be_used(
    how: str, says: str, tiny_recipe: Path, tiny_parent: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_parent, tmp_path / "parent")
    break_parent(how)(tmp_path / "parent")
    recipe = load_recipe(tiny_recipe, changes={"parent": str(tmp_path / "parent")})
    with pytest.raises(ParentError, match=says):
        make(recipe, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("store/*-*"))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"compact.coverage": 0.9}, RecipeError, "give one of vocab_size, coverage"),
        ({"compact.vocab_size": 200}, UserError, "257"),
        ({"design.max_params": 1000}, BudgetError, "no shape"),
        ({"inherit.neurons": "l3"}, RecipeError, "did you mean"),
        ({"device": "andriod-4gb"}, RecipeError, "android-4gb"),
        ({"export.formats": ["gguf"]}, RecipeError, "gguf-f16"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_half_made(
    changes: dict[str, Any], error: type[Exception], says: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says) as raised:
        make(load_recipe(tiny_recipe, changes=changes), out=tmp_path)
    assert "\n" not in str(raised.value)
    for artifact in tmp_path.glob("store/*-*"):
        assert (artifact / "manifest.json").is_file()
    assert not list(tmp_path.glob("store/.building/*/files"))


def test_corpora_that_cannot_be_used(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n' * 50 + "no json\n")
    for name, says in (("empty", "none of them"), ("bad", "1 of 51 lines"), ("none", "matches no")):
        changes = {"corpus.files": [str(tmp_path / f"{name}.jsonl")]}
        with pytest.raises(CorpusError, match=says):
            make(load_recipe(tiny_recipe, changes=changes), out=tmp_path / "out")


def test_a_name_taken_by_another_recipe(tiny_recipe: Path, made: Run) -> None:
    other = load_recipe(tiny_recipe, changes={"train.rounds": 1})
    with pytest.raises(OutputError, match=r"train\.rounds is 2 there, 1 here"):
        make(other, out=made.folder.parent.parent)


def test_a_damaged_artifact_is_named_and_redone(recipe: Recipe, made: Run, copied: Path) -> None:
    weights = copied / "store" / made.artifacts["train"].folder.name / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(DamagedArtifact, match="--redo train"):
        make(recipe, out=copied)
    assert files_of(make(recipe, out=copied, redo="train")) == files_of(made)


def test_a_bit_that_flips_in_the_tokens_is_found_before_training(
    recipe: Recipe, tiny_recipe: Path, made: Run, copied: Path
) -> None:
    """Size and time are as they were, so the store's memory of the file says nothing."""
    make(recipe, out=copied)
    path = copied / "store" / made.artifacts["tokens"].folder.name / "train" / "00000.ds"
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = load_recipe(tiny_recipe, changes={"name": "later", "train.rounds": 1})
    with pytest.raises(DamagedArtifact, match=r"train/00000\.ds: differs from its sum"):
        make(changed, out=copied)
    assert make(changed, out=copied, redo="tokens", until="tokens").artifacts["tokens"]
    assert made.artifacts["tokens"].path("train/00000.ds").read_bytes() == path.read_bytes()


def test_the_store_holds_no_path_of_this_machine(made: Run) -> None:
    """Artifacts can be moved to another machine: contents decide, places do not."""
    for stage in ("compact", "design", "tokens", "inherit", "train", "export"):
        for path in made.artifacts[stage].folder.rglob("*.json"):
            assert str(made.folder.parent.parent) not in path.read_text(encoding="utf-8"), path
