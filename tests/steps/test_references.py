"""The parent on the child's blocks, text held back, and what a run makes of both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.errors import RecipeError
from pocketlm.inputs import find_inputs
from pocketlm.model.checkpoint import load_child, open_checkpoint
from pocketlm.model.cost import flops_per_token
from pocketlm.pipeline import Store, make, plan, stage_keys
from pocketlm.progress import SILENT
from pocketlm.recipe import Recipe, load_recipe
from pocketlm.runs import Run
from pocketlm.steps.materials import Materials
from pocketlm.steps.references import references_for
from pocketlm.steps.weights import _train_blocks
from pocketlm.summary import forgetting_notes


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Recipe:
    changes = {
        "train.resample": "excess-loss",
        "train.losses": "recorded",
        "train.unit": "batch",
        "train.probe_parts": 3,
        "train.probe_times": 6,
        "train.dtype": "float32",
    }
    return load_recipe(tiny_recipe, changes=changes)


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Materials]:
    out = tmp_path_factory.mktemp("out")
    run = make(recipe, out=out, until="train")
    inputs = find_inputs(recipe, Store(out))
    return run, Materials(recipe=recipe, inputs=inputs, made=run.artifacts, progress=SILENT)


def test_the_parent_is_renormalised_over_the_kept_tokens(
    trained: tuple[Run, Materials],
) -> None:
    """Against the whole parent on the same text in its own ids, other columns left out by hand."""
    _, run = trained
    blocks = _train_blocks(run)
    given = references_for(run, blocks)
    assert given.parent_losses is not None
    losses_N = given.parent_losses()(np.arange(len(blocks)))
    assert losses_N.shape == (len(blocks),)
    kept = torch.from_numpy(np.load(run.made["compact"].path("kept_V.npy")))
    assert run.inputs.parent is not None
    parent = load_child(open_checkpoint(run.inputs.parent).folder).network()
    ids_BT1 = torch.from_numpy(blocks.batch(np.arange(4)))
    with torch.inference_mode():
        logits_BTV = parent(input_ids=kept[ids_BT1[:, :-1]]).logits[..., kept]
    log_BTV = logits_BTV.log_softmax(-1)
    by_hand = -log_BTV.gather(-1, ids_BT1[:, 1:, None]).squeeze(-1).mean(1)
    np.testing.assert_allclose(losses_N[:4], by_hand.numpy(), rtol=1e-4)


def test_the_parent_reads_documents_as_the_child_does(trained: tuple[Run, Materials]) -> None:
    _, run = trained
    masked = replace(run, recipe=load_recipe_like(run.recipe, document_mask=True))
    blocks = _train_blocks(run)
    plain, given = references_for(run, blocks), references_for(masked, blocks)
    assert plain.parent_losses is not None
    assert given.parent_losses is not None
    every_N = np.arange(len(blocks))
    differ_N = ~np.isclose(
        given.parent_losses()(every_N), plain.parent_losses()(every_N), rtol=1e-4
    )
    cut_N = (blocks.positions(every_N)[:, 1:] == 0).any(axis=1)
    assert not differ_N[~cut_N].any()
    assert differ_N[cut_N].mean() > 0.9
    assert given.held_out is not None
    assert len(given.held_out) > 0


def test_a_run_keeps_its_curves_and_counts_what_it_cost(trained: tuple[Run, Materials]) -> None:
    run, materials = trained
    artifact = run.artifacts["train"]
    rows = json.loads(artifact.path("probes.json").read_text())["rows"]
    notes = forgetting_notes(artifact)
    assert notes is not None
    assert [len(part.losses) for part in notes.parts] == [len(rows)] * 3
    assert notes.tokens[-1] == run.scores["train.tokens"].value
    assert notes.parts[0].trained_at < notes.parts[2].trained_at
    batches = run.scores["train.effective_batches_round_2"]
    num_blocks = len(_train_blocks(materials))
    assert batches.unit == f"of {-(-num_blocks // 8)} batches"
    child = load_child(artifact.folder).shape
    learned = 3 * flops_per_token(child, 32) * notes.tokens[-1]
    assert materials.inputs.parent is not None
    parent = replace(open_checkpoint(materials.inputs.parent).shape, vocab_size=child.vocab_size)
    scored = flops_per_token(parent, 32) * 32 * num_blocks
    looked = flops_per_token(child, 32) * 32 * len(rows) * (3 * 16 + 8)
    assert run.scores["train.flops"].value == pytest.approx(learned + scored + looked, rel=1e-9)


def test_without_a_parent_excess_loss_is_refused_before_anything_runs(
    recipe: Recipe, tmp_path: Path
) -> None:
    shape = {"layers": 1, "hidden": 8, "heads": 1, "kv_heads": 1, "ffn": 8}
    changes = {"parent": None, "tokenizer": {"train": 300}, "design": {"shape": shape}}
    alone = Recipe(**{**recipe.model_dump(), **changes})
    with pytest.raises(RecipeError, match=r"resample = 'excess-loss' compares .* there is none"):
        plan(alone, out=tmp_path)


def test_only_runs_that_draw_have_new_keys(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_key(**changes: object) -> str:
        changed = load_recipe_like(recipe, **changes)
        return stage_keys(changed, find_inputs(changed, Store(tmp_path)))["train"]

    before = train_key(), train_key(rounds=1)
    monkeypatch.setattr("pocketlm.pipeline.DRAW", 3)
    assert train_key() != before[0]
    assert train_key(rounds=1) == before[1]


def load_recipe_like(recipe: Recipe, **train: object) -> Recipe:
    name = "-".join(["like", *map(str, train.values())])
    table = recipe.train.model_copy(update=train)
    return recipe.model_copy(update={"train": table, "name": name})
