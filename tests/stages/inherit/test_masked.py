"""Masked = cut: a parent under gates of zero and one computes what its child computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint, open_checkpoint
from pocketlm.model.child import Child
from pocketlm.model.neutral import from_llama
from pocketlm.model.shape import Shape, check_shape
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import NEURON_SCORES, measure
from pocketlm.stages.inherit.cut import cut
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.masked import MaskedNetwork, gates_of
from pocketlm.stages.inherit.neurons import Units, choose_units
from pocketlm.stages.inherit.whole import whole_parent
from pocketlm.tables import build_table

IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(5))
EVERY_TOKEN = np.arange(60)
EVERY_LAYER = (0, 1, 2, 3)
KEPT_L = (0, 2, 3)
CUTS = {
    "layers": {"layers": 3},
    "ffn": {"ffn": 17},
    "heads": {"heads": 3},
    "kv_heads": {"heads": 4, "kv_heads": 2},
    "hidden": {"hidden": 30},
    "all": {"layers": 3, "ffn": 17, "heads": 2, "kv_heads": 2, "hidden": 30},
    # what the others cannot be where every head has its own keys and hidden is heads x head_dim
    "mha": {"heads": 4, "kv_heads": 4},
    "mha-all": {"layers": 3, "ffn": 17, "heads": 4, "kv_heads": 4, "hidden": 32},
}


def choice(parent: Checkpoint, shape: Shape, neurons: str, blocks: Blocks | None = None) -> Units:
    """What stays by that score, of every layer of the parent."""
    evidence = Evidence(parent=parent, kept_V=EVERY_TOKEN, rng=np.random.default_rng(0))
    if blocks is not None:
        table = build_table(InheritTable, {"neurons": neurons}, "[inherit]")
        evidence = replace(evidence, calibration=measure(parent, EVERY_TOKEN, blocks, table))
    return choose_units(NEURON_SCORES[neurons].function(evidence, EVERY_LAYER), parent.shape, shape)


def difference(parent: Checkpoint, masked: MaskedNetwork, shape: Shape, units: Units) -> float:
    """Between the logits under the masks of `units` and those of the child that has only them."""
    kept_L = KEPT_L if shape.layers == len(KEPT_L) else EVERY_LAYER
    of_child = Units(
        hidden=units.hidden,
        ffn=tuple(units.ffn[layer] for layer in kept_L),
        heads=tuple(units.heads[layer] for layer in kept_L),
        kv_heads=tuple(units.kv_heads[layer] for layer in kept_L),
    )
    child = cut(parent, shape, kept_L, EVERY_TOKEN, of_child)
    masked.gates = gates_of(units, parent.shape)
    if kept_L is KEPT_L:
        masked.gates["layers"] = torch.from_numpy(np.isin(EVERY_LAYER, KEPT_L)[None]).float()
    with torch.no_grad():
        ours, theirs = masked.network(IDS).logits, child.network()(IDS).logits
        masked.gates = {}
        assert not torch.allclose(theirs, masked.network(IDS).logits, atol=1e-2)
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def test_masked_is_cut(variant: str, family_parent: Callable[..., Path]) -> None:
    parent = open_checkpoint(family_parent(variant))
    masked = MaskedNetwork(whole_parent(parent, EVERY_TOKEN).network(), parent.shape)
    found = {}
    for name, sizes in CUTS.items():
        shape = replace(parent.shape, **sizes)
        try:
            check_shape(shape, parent.shape)
        except RecipeError:
            continue
        found[name] = difference(parent, masked, shape, choice(parent, shape, "l2"))
    assert {"layers", "ffn"} < found.keys()
    assert {"all", "mha-all"} & found.keys()
    assert max(found.values()) <= 1e-5, found


@pytest.mark.parametrize("neurons", sorted(NEURON_SCORES.keys() - {"mask"}))
def test_masked_is_cut_by_every_score(parent_folder: Path, blocks: Blocks, neurons: str) -> None:
    parent = open_checkpoint(parent_folder)
    masked = MaskedNetwork(whole_parent(parent, EVERY_TOKEN).network(), parent.shape)
    shape = replace(parent.shape, **CUTS["all"])
    assert difference(parent, masked, shape, choice(parent, shape, neurons, blocks)) <= 1e-5


def test_a_pangu_pi_s_modules_are_masked_along(
    parent: Child, tmp_path: Path, save: Callable[[Child, Path], Checkpoint]
) -> None:
    wide = from_llama(parent, shortcut_width=5, rng=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    stirred = {n: t + 0.3 * torch.randn(t.shape, generator=noise) for n, t in wide.tensors.items()}
    checkpoint = save(replace(wide, tensors=stirred), tmp_path)
    masked = MaskedNetwork(whole_parent(checkpoint, EVERY_TOKEN).network(), checkpoint.shape)
    shape = replace(checkpoint.shape, **CUTS["all"])
    assert difference(checkpoint, masked, shape, choice(checkpoint, shape, "l2")) <= 1e-5


def test_each_block_may_have_its_own_gates(parent_folder: Path) -> None:
    parent = open_checkpoint(parent_folder)
    masked = MaskedNetwork(whole_parent(parent, EVERY_TOKEN).network(), parent.shape)
    shape = replace(parent.shape, **CUTS["all"])
    left = gates_of(choice(parent, shape, "l2"), parent.shape)
    right = gates_of(choice(parent, shape, "random"), parent.shape)
    with torch.no_grad():
        masked.gates = {kind: torch.cat([left[kind], right[kind]]) for kind in left}
        both = masked.network(IDS).logits
        for block, gates in enumerate((left, right)):
            masked.gates = gates
            alone = masked.network(IDS[block : block + 1]).logits[0]
            torch.testing.assert_close(both[block], alone, atol=1e-5, rtol=1e-5)
