"""A checkpoint becomes a folder for transformers, whether its training is over or not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pocketlm.cli import run as command
from pocketlm.errors import DamagedArtifact, OutputError, RecipeError
from pocketlm.exporting import export_checkpoint
from pocketlm.model.checkpoint import load_child
from pocketlm.pipeline import make
from pocketlm.recipe import load_recipe
from pocketlm.stages.train.checkpoint import load_step
from pocketlm.stages.train.loop import Learner
from pocketlm.steps import weights

CHANGES = {
    "name": "watched",
    "train.rounds": 1,
    "train.checkpoint_seconds": 1e-9,
    "train.check_at": [0.0, 0.1, 0.2],
    "evaluate.speed_tokens": 0,
}


def same(folder: Path, tensors: Any) -> bool:
    """`folder` loads by the Auto classes with just these weights, and has its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert AutoTokenizer.from_pretrained(folder, local_files_only=True)("a b")["input_ids"]
    return all(
        parameter.equal(tensors[name]) for name, parameter in network.named_parameters()
    ) and len(tensors) == len(list(network.named_parameters()))


def test_while_it_trains_and_after(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, out = load_recipe(tiny_recipe, changes=CHANGES), tmp_path / "out"
    with pytest.raises(RecipeError, match="no checkpoint in"):
        export_checkpoint(recipe, "latest", tmp_path / "early", out=out)
    bits = iter([3.0, 1.0, 2.0])  # the second look finds the best child
    monkeypatch.setattr(weights, "choosing_bits", lambda run: lambda network: next(bits))
    update, steps = Learner._update, []

    def killed(self: Learner, block_B: Any) -> None:
        steps.append(self._first_step[-1])
        if self._step == steps[0] // 5 + 4:
            raise KeyboardInterrupt
        update(self, block_B)

    monkeypatch.setattr(Learner, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, out=out, until="train")
    monkeypatch.setattr(Learner, "_update", update)
    (resume,) = out.glob("store/.building/train-*/resume")
    best, newest = round(0.1 * steps[0]), steps[0] // 5 + 4
    for which, step in (("latest", newest), ("best", best), (str(newest - 1), newest - 1)):
        made = export_checkpoint(recipe, which, tmp_path / which, out=out)
        assert (made["step"], made["folder"]) == (step, str(tmp_path / which))
        weights_then = {
            name.removeprefix("model."): tensor
            for name, tensor in load_step(resume, step).tensors.items()
            if name.startswith("model.")
        }
        assert same(tmp_path / which, weights_then)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(OutputError, match="give a new folder"):
        export_checkpoint(recipe, "latest", tmp_path / "best", out=out)
    there = f"it has {best}, {newest - 1}, {newest}"
    with pytest.raises(RecipeError, match=f"no checkpoint of step 1 in .*; {there}"):
        export_checkpoint(recipe, "1", tmp_path / "none", out=out)
    with pytest.raises(RecipeError, match=f"latest, best or a step; {there}"):
        export_checkpoint(recipe, "first", tmp_path / "none", out=out)
    (resume / f"step-{newest - 1:09d}" / "manifest.json").unlink()
    with pytest.raises(DamagedArtifact, match="differs from its manifest"):
        export_checkpoint(recipe, str(newest - 1), tmp_path / "none", out=out)

    kept = load_step(resume, best).tensors
    run = make(recipe, out=out, until="train")
    child = load_child(run.artifacts["train"].path("best"))
    assert all(tensor.equal(kept[f"model.{name}"]) for name, tensor in child.tensors.items())
    given = [str(tiny_recipe), "--out", str(out)]
    for key, value in CHANGES.items():
        given += ["--set", f"{key}={json.dumps(value)}"]
    capsys.readouterr()
    where = ["--checkpoint", "best", "--to", str(tmp_path / "over"), "--json"]
    assert command(["export", *given, *where]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == "best"
    assert same(tmp_path / "over", child.tensors)
    assert command(["export", *given, "--checkpoint", "best"]) == 2
    assert "--checkpoint and --to go together" in capsys.readouterr().err
    assert command(["export", *given, "--checkpoint", "7", "--to", str(tmp_path / "none")]) == 2
    assert "it has latest and best" in capsys.readouterr().err
