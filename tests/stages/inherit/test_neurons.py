"""Scores and choices: sums by hand, groups that stay whole, draws that repeat."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit import NEURON_SCORES, inherit
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.neurons import Scores, choose_units

EVERY_TOKEN = np.arange(60)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_heads_stay_with_their_keys(num_kv: int, group: int, data: st.DataObject) -> None:
    kv_heads, kept_group = data.draw(st.integers(1, num_kv)), data.draw(st.integers(1, group))
    parent = Shape(
        family="llama",
        vocab_size=1,
        layers=1,
        hidden=8,
        heads=num_kv * group,
        kv_heads=num_kv,
        head_dim=2,
        ffn=8,
        tied=True,
    )
    importance_H = np.random.default_rng(data.draw(st.integers(0, 99))).random(parent.heads)
    scores = Scores(ffn=(np.arange(8.0),), heads=(importance_H,), hidden=np.arange(8.0))
    shape = replace(parent, heads=kv_heads * kept_group, kv_heads=kv_heads, ffn=3)
    units = choose_units(scores, parent, shape)
    assert units.ffn[0].tolist() == [5, 6, 7]
    kept_H, kept_K = units.heads[0], units.kv_heads[0]
    assert (np.diff(kept_H) > 0).all()
    # child head i attends with child K/V head i // kept_group: the same pair as in the parent
    assert (kept_K[np.arange(kept_H.size) // kept_group] == kept_H // group).all()
    for kv_head in kept_K:
        members = importance_H[kv_head * group : (kv_head + 1) * group]
        kept = importance_H[kept_H[kept_H // group == kv_head]]
        assert sorted(kept) == sorted(members)[group - kept_group :]


def test_scores_do_not_depend_on_chunks(
    parent: Child, parent_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    score = NEURON_SCORES["l2"].function
    evidence = Evidence(parent=checkpoint, kept_V=EVERY_TOKEN, rng=rng())
    whole = score(evidence, (0, 2))
    monkeypatch.setattr("pocketlm.stages.inherit.neurons._CHUNK_VALUES", 100)
    chunked = score(evidence, (0, 2))
    np.testing.assert_allclose(whole.hidden, chunked.hidden, rtol=1e-12)
    up, down, gate = (
        parent.tensors[f"model.layers.2.mlp.{name}_proj.weight"].double()
        for name in ("up", "down", "gate")
    )
    by_hand = (up.square().sum(1) + gate.square().sum(1) + down.square().sum(0)).sqrt()
    np.testing.assert_allclose(chunked.ffn[1], by_hand.numpy(), rtol=1e-12)


def test_random_is_reproducible_and_random(parent_folder: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, hidden=24, ffn=16)

    def draw(seed: int) -> torch.Tensor:
        seeded = np.random.default_rng(seed)
        child = inherit(checkpoint, shape, EVERY_TOKEN, neurons="random", rng=seeded)
        return child.tensors["model.embed_tokens.weight"]

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
