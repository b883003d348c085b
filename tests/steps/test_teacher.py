"""Learning from the parent inside a run: beside the child, or from what was stored of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketlm.artifact import Artifact, Store
from pocketlm.inputs import find_inputs
from pocketlm.model.checkpoint import load_child, open_checkpoint
from pocketlm.model.cost import flops_per_token
from pocketlm.pipeline import make, plan, stage_keys
from pocketlm.recipe import load_recipe
from pocketlm.runs import Run
from pocketlm.stages.train.schedule import default_rate

STORED = {
    "train.distil": 0.8,
    "train.distil_end": 0.2,
    "train.distil_tokens": 12,
    "train.distil_from": "stored",
    "train.rounds": 1,
    "train.dtype": "float32",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def stored(tiny_recipe: Path, out: Path) -> Run:
    return make(load_recipe(tiny_recipe, changes=STORED), out=out, until="train")


def test_what_is_stored_serves_every_seed_and_shape(
    tiny_recipe: Path, stored: Run, out: Path
) -> None:
    artifact = stored.artifacts["teacher"]
    log_p_NTK, ids_NTK = (np.load(artifact.path(f"{n}_NTK.npy")) for n in ("log_p", "ids"))
    assert log_p_NTK.shape == ids_NTK.shape
    assert log_p_NTK.shape[1:] == (32, 12)
    assert ids_NTK.max() < load_child(stored.artifacts["train"].folder).shape.vocab_size
    assert (np.diff(log_p_NTK, axis=-1) <= 0).all()
    other = load_recipe(tiny_recipe, changes={**STORED, "seed": 7, "name": "other"})
    assert {s.stage: s.reused for s in plan(other, out=out)}["teacher"]
    hotter = load_recipe(
        tiny_recipe, changes={**STORED, "train.distil_temperature": 2.0, "name": "hotter"}
    )
    assert not {s.stage: s.reused for s in plan(hotter, out=out)}["teacher"]


def test_a_recipe_that_does_not_store_has_no_such_step(tiny_recipe: Path, out: Path) -> None:
    beside = load_recipe(tiny_recipe, changes={"train.distil": 0.5, "name": "beside"})
    for recipe in (load_recipe(tiny_recipe, changes={"name": "plain"}), beside):
        assert "teacher" not in {step.stage for step in plan(recipe, out=out)}


def test_beside_the_child_it_teaches_the_same(tiny_recipe: Path, stored: Run, out: Path) -> None:
    """But for float16, which Adam makes more of; what the text alone teaches is far from both."""
    beside = {**STORED, "train.distil_from": "parent", "name": "beside"}
    alone = {"train.rounds": 1, "train.dtype": "float32", "name": "alone"}
    runs = [
        make(load_recipe(tiny_recipe, changes=changes), out=out, until="train")
        for changes in (beside, alone)
    ]
    first, second, third = (_weights(run.artifacts["train"]) for run in (stored, *runs))
    near, far = np.linalg.norm(first - second), np.linalg.norm(first - third)
    assert 0 < near < 0.2 * far


def test_the_parents_work_is_counted(stored: Run) -> None:
    child = load_child(stored.artifacts["train"].folder).shape
    tokens = stored.scores["train.tokens"].value
    parent = replace(open_checkpoint(_parent(stored)).shape, vocab_size=child.vocab_size)
    blocks = len(np.load(stored.artifacts["train"].path("ledger_N.npy")))
    expected = 3 * flops_per_token(child, 32) * tokens + flops_per_token(parent, 32) * 32 * blocks
    assert stored.scores["train.flops"].value == pytest.approx(expected, rel=1e-9)


def _parent(run: Run) -> Path:
    assert isinstance(run.recipe.parent, str)
    return Path(run.recipe.parent)


def _weights(artifact: Artifact) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    tensors = load_child(artifact.folder).tensors
    return np.concatenate([t.numpy().ravel() for t in tensors.values()])


def test_a_child_cut_out_of_a_parent_begins_gently(tiny_recipe: Path, out: Path) -> None:
    """A third of the law's rate where the recipe leaves it open, and a key that says so."""
    changes: dict[str, object] = {"train.rounds": 1, "train.batch_tokens": 256, "name": "gentle"}
    recipe = load_recipe(tiny_recipe, changes=changes)
    open_rate = recipe.train.model_copy(update={"learning_rate": None})
    gentle = recipe.model_copy(update={"train": open_rate})
    run = make(gentle, out=out, until="train")
    tokens, params = run.scores["train.tokens"].value, run.scores["design.params"].value
    lines = run.artifacts["train"].path("log.jsonl").read_text().splitlines()
    law = default_rate(int(params), int(tokens))
    assert max(json.loads(line)["rate"] for line in lines) == pytest.approx(law / 3, rel=0.02)
    told = [stage_keys(one, find_inputs(one, Store(out)))["train"] for one in (recipe, gentle)]
    assert told[0] != told[1]
