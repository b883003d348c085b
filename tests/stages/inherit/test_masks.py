"""Learned masks: exact targets, live units stay, draws that repeat, weights that train along."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import inherit, learn_masks
from pocketlm.stages.inherit.calibration import Calibration
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.gates import AxisGates, open_chance
from pocketlm.stages.inherit.masks import axes_of, draw, train_gates
from pocketlm.tables import build_table

EVERY_TOKEN = np.arange(60)
EVERY_LAYER = (0, 1, 2, 3)
DEAD_D = torch.randperm(48, generator=torch.Generator().manual_seed(2))[:18]
DEAD_HEADS = (0, 3, 4)  # one of each group of two
Save = Callable[[Child, Path], Checkpoint]


MASKS_ALONE: dict[str, Any] = {
    "neurons": "mask",
    "hidden": "score",
    "norm_energy": False,
    "refit": "none",
}


def table(**settings: object) -> InheritTable:
    return build_table(InheritTable, {**MASKS_ALONE, **settings}, "[inherit]")


def half_dead(parent: Child) -> Child:
    """The parent with every second neuron and head and 18 of 48 channels silent, the rest loud."""
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    for name, tensor in tensors.items():
        if "norm" in name or "o_proj" in name or "down_proj" in name:
            tensor[DEAD_D] = 0.0
        else:
            tensor[:, DEAD_D] = 0.0
        if "o_proj" in name or "down_proj" in name:
            tensor *= 2
    for layer in range(4):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        tensors[f"{mlp}down_proj.weight"][:, ::2] = 0.0
        for head in DEAD_HEADS:
            tensors[f"{attention}o_proj.weight"][:, 8 * head : 8 * head + 8] = 0.0
    return replace(parent, tensors=tensors)


@pytest.fixture(scope="module")
def dying(parent: Child, save: Save, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save(half_dead(parent), tmp_path_factory.mktemp("dying"))


@pytest.fixture(scope="module")
def said(parent: Child) -> Calibration:
    """32 blocks of 16 tokens in the half dead parent's own words: nothing predicts them better."""
    rng, network = torch.Generator().manual_seed(3), half_dead(parent).network()
    ids = torch.randint(0, 60, (32, 1), generator=rng)
    with torch.no_grad():
        for _ in range(16):
            chances = network(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=rng)], 1)
    return Calibration(ids_NT1=ids.numpy(), statistics={})


def seen(parent: Checkpoint, calibration: Calibration, seed: int = 0) -> Evidence:
    return Evidence(
        parent=parent,
        kept_V=EVERY_TOKEN,
        rng=np.random.default_rng(seed),
        calibration=calibration,
    )


def test_gates_are_as_often_open_as_they_say() -> None:
    axis = AxisGates((3, 500), 100)
    axis.log_alpha.data[:] = torch.tensor([[-2.0], [0.0], [2.0]])
    uniform = torch.rand(40, 3, 500, generator=torch.Generator().manual_seed(0)).clamp(
        1e-6, 1 - 1e-6
    )
    gates = axis.draw(uniform)
    is_open = (gates > 0).float().mean((0, 2))
    torch.testing.assert_close(
        is_open, open_chance(axis.log_alpha.detach())[:, 0], atol=0.01, rtol=0
    )
    assert (gates == 1).any()
    assert gates.max() <= 1


def test_live_units_stay_and_the_expected_size_is_the_target(
    dying: Checkpoint, said: Calibration
) -> None:
    shape = replace(dying.shape, ffn=20, hidden=30, heads=3)
    evidence, settings = seen(dying, said), table(mask_steps=200)
    axes = axes_of(dying.shape, shape, EVERY_LAYER, settings)
    assert axes.keys() == {"ffn", "heads", "hidden"}  # every K/V group stays
    train_gates(evidence, EVERY_LAYER, axes, settings)
    for kind, axis in axes.items():
        assert abs(float(axis.gap(1.0).detach().mean())) < 0.02, kind
    dead_D = np.isin(np.arange(48), DEAD_D.numpy())
    chances_D = axes["hidden"].chances().numpy()
    assert chances_D[~dead_D].min() > chances_D[dead_D].max()
    chances_LF = axes["ffn"].chances().numpy()
    # Not quite all: in the first layers some living neurons hardly change a word.
    best_LF = np.argsort(-chances_LF)[:, :20]
    assert (best_LF % 2 == 1).mean() > 0.85
    chances_LH = axes["heads"].chances().numpy().reshape(4, 6)
    best_LK = chances_LH.reshape(4, 3, 2).argmax(-1)
    assert (best_LK == [1, 0, 1]).mean() > 0.8  # the living one of each group


def test_every_dimension_is_exactly_the_target(dying: Checkpoint, said: Calibration) -> None:
    shape = replace(dying.shape, layers=3, ffn=17, hidden=28, heads=2, kv_heads=2)
    settings = {**MASKS_ALONE, "layers": "mask", "mask_steps": 6}
    rng = np.random.default_rng(0)
    child = inherit(dying, shape, EVERY_TOKEN, rng=rng, calibration=said, **settings)
    assert child.shape == shape
    child.network()


def test_the_layer_that_does_nothing_leaves(
    parent: Child, save: Save, said: Calibration, tmp_path: Path
) -> None:
    """Among the others the masks know which; the units of its like are not asked for."""
    child = half_dead(parent)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        child.tensors[f"model.layers.1.{name}.weight"].zero_()
    checkpoint = save(child, tmp_path)
    settings = table(neurons="l2", layers="mask", mask_steps=60)
    found = learn_masks(seen(checkpoint, said), replace(checkpoint.shape, layers=3), settings)
    assert found.statistics["layers.mask"].argmin() == 1
    assert (found.statistics["hidden.mask"] == 1).all()


def test_layers_that_left_before_are_not_asked(dying: Checkpoint, said: Calibration) -> None:
    shape = replace(dying.shape, layers=2, ffn=20)
    found = learn_masks(seen(dying, said), shape, table(layers=(3, 0), mask_steps=4)).statistics
    assert (found["ffn.mask"][[1, 2]] == 0).all()
    assert (found["ffn.mask"][[0, 3]] > 0).all()
    assert found["heads.mask"][[0, 3]].min() == 1  # as many as the parent's


def test_same_seed_same_scores_and_learned_once(dying: Checkpoint, said: Calibration) -> None:
    shape, settings = replace(dying.shape, ffn=20, hidden=30), table(mask_steps=5)
    first = learn_masks(seen(dying, said), shape, settings)
    again = learn_masks(seen(dying, said), shape, settings)
    other = learn_masks(seen(dying, said, seed=1), shape, settings)
    for name in ("ffn.mask", "hidden.mask"):
        assert np.array_equal(first.statistics[name], again.statistics[name])
        assert not np.array_equal(first.statistics[name], other.statistics[name])
    # Learned masks are taken as they are: another generator changes nothing.
    children = [
        inherit(
            dying,
            shape,
            EVERY_TOKEN,
            rng=np.random.default_rng(seed),
            calibration=first,
            **MASKS_ALONE,
        )
        for seed in (5, 6)
    ]
    assert all(torch.equal(children[1].tensors[n], t) for n, t in children[0].tensors.items())
    with pytest.raises(RecipeError, match="its masks are for"):
        inherit(
            dying,
            replace(shape, ffn=10),
            EVERY_TOKEN,
            rng=np.random.default_rng(0),
            calibration=first,
            **MASKS_ALONE,
        )


def test_sorted_is_unsorted(
    parent: Child, save: Save, said: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units in another order, draws in the same one: the same ones stay, the child computes it."""
    rng = np.random.default_rng(4)
    order_F, order_D = rng.permutation(40), rng.permutation(48)
    order_G = np.array([1, 0])  # of the heads in every group
    entries = np.arange(48).reshape(3, 2, 8)[:, order_G].reshape(-1)
    child = half_dead(parent)
    tensors = {}
    for name, tensor in child.tensors.items():
        moved = tensor
        if "gate_proj" in name or "up_proj" in name:
            moved = moved[order_F]
        if "q_proj" in name:
            moved = moved[entries]
        if "down_proj" in name or "o_proj" in name:
            moved = moved[order_D][:, order_F if "down" in name else entries]
        else:
            moved = moved[order_D] if "norm" in name else moved[:, order_D]
        tensors[name] = moved.contiguous()
    plain = save(child, tmp_path / "plain")
    moved_parent = save(replace(child, tensors=tensors), tmp_path / "moved")
    shape = replace(plain.shape, ffn=20, hidden=30, heads=3)
    settings = table(mask_steps=12)
    left = learn_masks(seen(plain, said), shape, settings)

    def moved_draw(dims: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
        orders = {40: order_F, 48: order_D, 2: order_G}
        return draw(dims, rng)[..., orders[dims[-1]]]

    monkeypatch.setattr("pocketlm.stages.inherit.masks.draw", moved_draw)
    right = learn_masks(seen(moved_parent, said), shape, settings)
    for name, order in (("ffn.mask", order_F), ("hidden.mask", order_D)):
        np.testing.assert_allclose(
            right.statistics[name], left.statistics[name][..., order], atol=1e-3
        )
    ids = torch.from_numpy(said.ids_NT1[:4])
    logits = [
        inherit(
            checkpoint,
            shape,
            EVERY_TOKEN,
            rng=np.random.default_rng(0),
            calibration=found,
            **MASKS_ALONE,
        )
        .network()(ids)
        .logits.detach()
        for checkpoint, found in ((plain, left), (moved_parent, right))
    ]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_trained_weights_are_what_is_cut(dying: Checkpoint, said: Calibration) -> None:
    shape = replace(dying.shape, layers=2, ffn=20, hidden=30, vocab_size=50)
    kept_V = np.arange(10, 60)
    evidence = replace(seen(dying, replace(said, ids_NT1=said.ids_NT1 % 50)), kept_V=kept_V)
    settings = {"layers": (0, 3), "mask_weights": "trained", "mask_steps": 8}
    found = learn_masks(evidence, shape, table(**settings))
    trained = found.trained
    assert trained is not None
    assert trained.shape == dying.shape.with_vocab(50)
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer, moves in ((0, True), (1, False), (3, True)):
        change = (trained.tensors[name.format(layer)] - dying.read(name.format(layer))).abs()
        assert (0 < float(change.max()) <= 8 * 1.1e-4) == moves
    child = inherit(
        dying,
        shape,
        kept_V,
        rng=np.random.default_rng(0),
        calibration=found,
        **MASKS_ALONE,
        **settings,
    )
    kept_D = np.argsort(-found.statistics["hidden.mask"], kind="stable")[:30]
    table_VD = trained.tensors["model.embed_tokens.weight"][:, np.sort(kept_D)]
    assert torch.equal(child.tensors["model.embed_tokens.weight"], table_VD)
    with pytest.raises(RecipeError, match="norm_energy"):
        table(mask_weights="trained", norm_energy=True)
