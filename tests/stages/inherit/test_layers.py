"""Every pick keeps as many layers as asked, in order, and what it is named for."""

import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses
from pocketlm.model.shape import Shape
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import LAYER_PICKS, inherit, measure
from pocketlm.stages.inherit.calibration import Calibration, calibration_ids
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.greedy import loss_without, search
from pocketlm.stages.inherit.layers import choose_layers, ends

DATA_FREE = ("ends", "first", "uniform")
STATISTICAL = ("block-influence", "contiguous")


def evidence_of(num_parent: int, seed: int = 0) -> Evidence:
    """A parent of that depth, with made-up statistics and no weights."""
    shape = Shape(
        family="llama",
        vocab_size=8,
        layers=num_parent,
        hidden=8,
        heads=1,
        kv_heads=1,
        head_dim=8,
        ffn=8,
        tied=True,
    )
    parent = Checkpoint(folder=Path("nowhere"), config={}, shape=shape, stored={})
    rng = np.random.default_rng(seed)
    statistics = {
        "influence": rng.random(num_parent),
        "distance": rng.random((num_parent + 1, num_parent + 1)),
    }
    calibration = Calibration(ids_NT1=np.zeros((2, 9), np.int64), statistics=statistics)
    return Evidence(parent=parent, kept_V=np.arange(8), rng=rng, calibration=calibration)


@given(st.integers(1, 80), st.data(), st.sampled_from(DATA_FREE + STATISTICAL))
def test_distinct_ascending_and_complete(num_parent: int, data: st.DataObject, name: str) -> None:
    num_child = data.draw(st.integers(1, num_parent))
    kept = choose_layers(name, evidence_of(num_parent), num_child)
    assert len(kept) == num_child
    assert all(left < right for left, right in pairwise(kept))
    assert kept[0] >= 0
    assert kept[-1] < num_parent
    if name in DATA_FREE:
        assert kept[0] == 0
        assert name == "first" or num_child == 1 or kept[-1] == num_parent - 1
    if num_child == num_parent:
        assert kept == tuple(range(num_parent))


@pytest.mark.parametrize("num_child", [21, 22])
def test_the_paper_s_cut_keeps_both_ends(num_child: int) -> None:
    kept = ends(evidence_of(29), num_child)
    assert kept[:3] == (0, 1, 2)
    assert kept[-3:] == (26, 27, 28)
    gaps = [right - left for left, right in pairwise(kept)]
    assert max(gaps) <= 2  # the middle is thinned evenly: never two neighbours dropped


@given(st.integers(1, 12), st.integers(0, 30), st.sampled_from(sorted(LAYER_PICKS)))
def test_growth_repeats_every_layer_next_to_itself(num_parent: int, more: int, name: str) -> None:
    kept = choose_layers(name, evidence_of(num_parent), num_parent + more)
    assert list(kept) == sorted(kept)
    times = [kept.count(layer) for layer in range(num_parent)]
    assert sum(times) == num_parent + more
    assert max(times) - min(times) <= 1


def test_statistics_decide() -> None:
    evidence = evidence_of(9, seed=4)
    influence = evidence.statistic("influence")
    dropped = set(range(9)) - set(choose_layers("block-influence", evidence, 6))
    assert max(influence[list(dropped)]) < min(np.delete(influence, list(dropped)))
    kept = choose_layers("contiguous", evidence, 6)
    start = next(i for i in range(7) if kept == (*range(i), *range(i + 3, 9)))
    distance = evidence.statistic("distance")
    assert distance[start, start + 3] == min(distance[i, i + 3] for i in range(7))


def test_a_layer_that_does_nothing_leaves_first(
    tmp_path: Path, parent: Child, blocks: Blocks
) -> None:
    """Where there is no doubt, both statistics agree."""
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    for name in ("mlp.down_proj", "self_attn.o_proj"):
        tensors[f"model.layers.2.{name}.weight"].zero_()
    save_child(replace(parent, tensors=tensors), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    shape = replace(checkpoint.shape, layers=3)
    for name in STATISTICAL:
        child = inherit(
            checkpoint,
            shape,
            np.arange(60),
            layers=name,
            calibration=blocks,
            rng=np.random.default_rng(0),
        )
        for layer, source in enumerate((0, 1, 3)):
            up = f"model.layers.{layer}.mlp.up_proj.weight"
            assert torch.equal(child.tensors[up], tensors[up.replace(str(layer), str(source))])


def test_greedy_on_the_text_beats_ends(parent_folder: Path, blocks: Blocks) -> None:
    checkpoint = open_checkpoint(parent_folder)
    table = InheritTable(
        layers="greedy", neurons="l2", hidden="score", norm_energy=False, refit="none"
    )
    kept_V = np.arange(60)
    calibration = measure(checkpoint, kept_V, blocks, table)
    assert calibration.statistics == {}
    evidence = Evidence(
        parent=checkpoint, kept_V=kept_V, rng=np.random.default_rng(0), calibration=calibration
    )
    loss = loss_without(evidence)
    for num_child in (1, 2, 3):
        kept = choose_layers("greedy", evidence, num_child)
        assert loss(kept) <= loss(choose_layers("ends", evidence, num_child))
        others = (c for c in combinations(range(4), num_child) if len({*c} - {*kept}) <= 1)
        assert loss(kept) == min(map(loss, others))  # no swap helps
    child = inherit(
        checkpoint,
        replace(checkpoint.shape, layers=2),
        kept_V,
        layers=list(choose_layers("greedy", evidence, 2)),
        rng=np.random.default_rng(0),
    )
    ids = torch.from_numpy(calibration_ids(blocks, 12))
    with torch.no_grad():
        cut = block_losses(child.network(), ids).mean().item()
    assert cut == pytest.approx(loss(choose_layers("greedy", evidence, 2)), rel=1e-5)


@given(st.integers(2, 7), st.data())
def test_search_ends_where_no_swap_helps(num_parent: int, data: st.DataObject) -> None:
    num_child = data.draw(st.integers(1, num_parent))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    losses = {kept: float(rng.random()) for k in range(num_parent + 1) for kept in
              combinations(range(num_parent), k)}  # fmt: skip
    kept = search(num_parent, num_child, losses.__getitem__)
    near = [o for o in combinations(range(num_parent), num_child) if len({*o} - {*kept}) <= 1]
    assert losses[kept] == min(losses[other] for other in near)


def test_search_is_brute_force_where_swaps_suffice() -> None:
    """Four layers, three dropped or kept: every other choice is one swap away. Dropping alone is
    led astray: no layer but 3 may go first, and {1} is best alone."""
    price = {(0, 1, 2): 0.1, (0, 1): 0.5, (0, 2): 0.2, (1, 2): 0.4, (0,): 0.9, (2,): 0.8}
    best_alone = {(1,): 0.3, (3,): 0.7}
    asked: list[tuple[int, ...]] = []

    def loss_of(kept: tuple[int, ...]) -> float:
        asked.append(kept)
        return {**price, **best_alone}.get(kept, 1.0)

    assert search(4, 1, loss_of) == (1,)
    assert len(asked) == len(set(asked))  # each choice is evaluated once
    assert search(4, 3, loss_of) == (0, 1, 2)
    assert math.isclose(loss_of(search(4, 2, loss_of)), 0.2)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ((0, 1), r"layers = \[0, 1\]: 2 layers; the child has 3"),
        ((0, 1, 4), "no layer 4 in the parent; it has 0 to 3"),
        ((0, -1, 2), "no layer -1"),
    ],
)
def test_lists_are_checked(listed: tuple[int, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        choose_layers(listed, evidence_of(4), 3)
