"""Methods that run, rotate or refit a parent, on every family."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import load_child, open_checkpoint
from pocketlm.model.child import Child
from pocketlm.model.family import family_names, load_family
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import inherit
from pocketlm.stages.inherit.evidence import decided
from pocketlm.stages.inherit.forward import embed
from pocketlm.stages.inherit.one_layer import OneLayer
from pocketlm.stages.inherit.rotate import check_rotates, rotate

IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(5))
EVERY_TOKEN = np.arange(60)
ROTATE = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def logits(child: Child) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = child.network()(IDS).logits
    return out


def test_layers_run_one_by_one_are_the_model(
    variant: str, family_parent: Callable[..., Path]
) -> None:
    checkpoint = open_checkpoint(family_parent(variant))
    stream, one_layer = embed(checkpoint, IDS.numpy()), OneLayer(checkpoint.config, checkpoint.read)
    for layer in range(checkpoint.shape.layers):
        one_layer.load(layer)
        stream, _ = one_layer.run(stream)
    with torch.no_grad():
        network = load_child(checkpoint.folder).network()
        name = load_family(checkpoint.shape.family).final_norm.removesuffix(".weight")
        ours = network.get_submodule(name)(stream)
        theirs = network.base_model(IDS, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_full_rotation_changes_nothing_or_is_refused(
    variant: str, family_parent: Callable[..., Path]
) -> None:
    child = load_child(family_parent(variant, tied=False))
    assert load_family(child.shape.family).rotates == (child.shape.family in ROTATE)
    if child.shape.family not in ROTATE:
        with pytest.raises(RecipeError, match="hidden = 'rotate'"):
            check_rotates(child.shape.family)
        return
    values = torch.randn(
        child.shape.hidden,
        child.shape.hidden,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(3),
    )
    turned = rotate(child, torch.linalg.qr(values)[0])
    torch.testing.assert_close(logits(turned), logits(child), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neurons", ["energy", "taylor", "fisher"])
def test_a_mended_child_of_every_family(
    variant: str, family_parent: Callable[..., Path], blocks: Blocks, neurons: str
) -> None:
    checkpoint = open_checkpoint(family_parent(variant))
    rotates = checkpoint.shape.family in ROTATE
    shape = replace(checkpoint.shape, layers=3, hidden=checkpoint.shape.hidden * 2 // 3, ffn=24)
    shape = replace(shape, heads=shape.heads * 2 // 3, kv_heads=checkpoint.shape.kv_heads * 2 // 3)
    child = inherit(
        checkpoint,
        shape,
        EVERY_TOKEN,
        neurons=neurons,
        layers="greedy",
        hidden="rotate" if rotates else "score",
        refit="stream" if rotates else "output",
        calibration=blocks,
        rng=np.random.default_rng(0),
    )
    assert child.shape == shape
    assert torch.isfinite(logits(child)).all()


def test_auto_is_the_best_that_family_and_text_allow(
    family_parent: Callable[..., Path], blocks: Blocks
) -> None:
    checkpoint = open_checkpoint(family_parent("llama"))
    shape = replace(checkpoint.shape, layers=3, hidden=32, heads=4, kv_heads=2, ffn=24)

    def child(**settings: Any) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(0)
        return dict(inherit(checkpoint, shape, EVERY_TOKEN, rng=rng, **settings).tensors)

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    best = {"neurons": "energy", "hidden": "rotate", "norm_energy": True, "refit": "stream"}
    data_free = {"neurons": "l2", "hidden": "score", "norm_energy": False, "refit": "none"}
    mended = child(calibration=blocks)
    assert equal(mended, child(calibration=blocks, **best))
    assert equal(child(), child(**data_free))
    assert not equal(mended, child())
    table = InheritTable()
    for family in family_names():
        found = decided(table, family, has_text=True)
        assert (found.hidden == "rotate") == (family in ROTATE) == (found.refit == "stream")
        assert found.neurons == "energy"
    kept = decided(InheritTable(hidden="score", norm_energy=False), "llama", has_text=True)
    assert (kept.hidden, kept.norm_energy, kept.refit) == ("score", False, "stream")
