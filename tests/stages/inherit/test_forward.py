"""Statistics: equal to hooks on the whole parent, whatever the batch; held one layer at a time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import CorpusError, RecipeError
from pocketlm.model.checkpoint import open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import inherit, measure
from pocketlm.stages.inherit.calibration import calibration_ids, norm_names
from pocketlm.stages.inherit.forward import forward_statistics
from pocketlm.stages.inherit.one_layer import OneLayer

KEPT_V = np.random.default_rng(3).permutation(60)[:50]
FORWARD = InheritTable(neurons="energy", calibration_blocks=6)


@pytest.fixture(scope="module")
def child_blocks() -> Blocks:
    """Twelve blocks of 16 tokens in the ids of a child that keeps 50 of 60 tokens."""
    return Blocks(np.random.default_rng(2).integers(0, 50, 12 * 16 + 1), 16)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_streamed_equals_in_memory(
    parent: Child, parent_folder: Path, child_blocks: Blocks
) -> None:
    ids_NT1 = calibration_ids(child_blocks, 6)
    found = forward_statistics(open_checkpoint(parent_folder), KEPT_V, ids_NT1)
    seen = watched(parent, torch.from_numpy(KEPT_V[ids_NT1[:, :-1]]))
    streams = [seen[name][0].double() for name in norm_names(parent.shape)]
    for layer in range(4):
        down = parent.tensors[f"model.layers.{layer}.mlp.down_proj.weight"].double()
        z_NF = seen[f"model.layers.{layer}.mlp.down_proj.weight"][0].double().flatten(0, 1)
        lost_F = z_NF.square().mean(0).sqrt() * down.norm(dim=0)
        np.testing.assert_allclose(found["ffn.energy"][layer], lost_F.numpy(), rtol=1e-5)
        out = parent.tensors[f"model.layers.{layer}.self_attn.o_proj.weight"].double()
        a_NTW = seen[f"model.layers.{layer}.self_attn.o_proj.weight"][0].double()
        for head in range(6):
            part = slice(8 * head, 8 * head + 8)
            lost = (a_NTW[..., part] @ out[:, part].T).square().sum(-1).mean().sqrt()
            assert found["heads.energy"][layer, head] == pytest.approx(lost.item(), rel=1e-5)
            sizes_NE = a_NTW[..., part].abs().mean(1)
            activation = sizes_NE.square().sum(0).sqrt().norm()
            assert found["heads.activation"][layer, head] == pytest.approx(
                activation.item(), rel=1e-5
            )
    outs = [seen[name][1].double().abs().mean(1).square().sum(0).sqrt() for name in seen_norms()]
    np.testing.assert_allclose(found["hidden.activation"], sum(outs).numpy(), rtol=1e-5)
    units = [s / s.square().mean(-1, keepdim=True).sqrt() for s in streams]
    moment_DD = sum(unit.flatten(0, 1).T @ unit.flatten(0, 1) for unit in units) / (96 * 9)
    np.testing.assert_allclose(found["moment"], moment_DD.numpy(), rtol=1e-4, atol=1e-6)
    influence = 1 - torch.cosine_similarity(streams[2], streams[4], dim=-1).mean()
    assert found["influence"][1] == pytest.approx(influence.item(), rel=1e-5)
    before, after = streams[2][:, -1], streams[6][:, -1]
    angle = torch.cosine_similarity(before, after, dim=-1).arccos().mean() / torch.pi
    assert found["distance"][1, 3] == pytest.approx(angle.item(), rel=1e-5)


def seen_norms() -> list[str]:
    kinds = ("input_layernorm", "post_attention_layernorm")
    return [f"model.layers.{layer}.{kind}.weight" for layer in range(4) for kind in kinds]


def watched(parent: Child, ids: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of every module with a weight in one forward pass of the whole parent."""
    network, seen = parent.network(), {}
    for path, module in network.named_modules():
        if hasattr(module, "weight"):

            def note(_: Any, inputs: Any, output: Any, name: str = f"{path}.weight") -> None:
                seen[name] = (inputs[0], output)

            module.register_forward_hook(note)
    with torch.no_grad():
        network(ids)
    return seen


def test_batches_change_nothing(
    parent_folder: Path, child_blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, ids_NT1 = open_checkpoint(parent_folder), calibration_ids(child_blocks, 6)
    whole = forward_statistics(checkpoint, KEPT_V, ids_NT1)
    for size in (1, 4):
        monkeypatch.setattr("pocketlm.stages.inherit.forward.BATCH_BLOCKS", size)
        split = forward_statistics(checkpoint, KEPT_V, ids_NT1)
        for name, values in whole.items():
            np.testing.assert_allclose(split[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_one_layer_at_a_time(
    parent_folder: Path, child_blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a layer runs, no other layer, embedding or head has memory behind it."""
    run, real = OneLayer.run, list[str]()

    def watching(self: OneLayer, stream_BTD: torch.Tensor) -> Any:
        held = [i for i, layer in enumerate(self._layers) if any_real(layer)]
        assert len(held) == 1
        assert not any_real(self._network.get_input_embeddings())
        assert not any_real(self._network.get_output_embeddings())
        real.extend(held)
        return run(self, stream_BTD)

    def any_real(module: torch.nn.Module) -> bool:
        return any(not parameter.is_meta for parameter in module.parameters())

    monkeypatch.setattr(OneLayer, "run", watching)
    forward_statistics(open_checkpoint(parent_folder), KEPT_V, calibration_ids(child_blocks, 6))
    assert real == [0, 1, 2, 3]


def test_a_cut_from_what_was_measured_is_the_same_cut(
    parent_folder: Path, child_blocks: Blocks
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    calibration = measure(checkpoint, KEPT_V, child_blocks, FORWARD)
    for hidden, neurons in ((24, "energy"), (36, "energy"), (24, "activation")):
        shape = replace(checkpoint.shape, vocab_size=50, hidden=hidden, ffn=20, heads=3)
        settings: dict[str, Any] = {"neurons": neurons, "calibration_blocks": 6}
        fresh = inherit(checkpoint, shape, KEPT_V, calibration=child_blocks, rng=rng(), **settings)
        cached = inherit(checkpoint, shape, KEPT_V, calibration=calibration, rng=rng(), **settings)
        assert all(torch.equal(cached.tensors[n], t) for n, t in fresh.tensors.items())


@pytest.mark.parametrize("neurons", ["activation", "energy"])
def test_units_that_do_nothing_score_nothing(
    parent: Child, child_blocks: Blocks, tmp_path: Path, neurons: str
) -> None:
    """Weights that norms would count, and that no text ever wakes, leave first."""
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    tensors["model.layers.1.mlp.up_proj.weight"][::2] = 0.0
    tensors["model.layers.1.mlp.gate_proj.weight"][::2] *= 1e3
    tensors["model.layers.2.self_attn.v_proj.weight"][8:16] = 0.0  # heads 2 and 3 read group 1
    save_child(replace(parent, tensors=tensors), tmp_path)
    found = measure(open_checkpoint(tmp_path), KEPT_V, child_blocks, FORWARD).statistics
    silent_F, silent_H = found[f"ffn.{neurons}"][1] == 0, found[f"heads.{neurons}"][2] == 0
    assert silent_F.tolist() == [True, False] * 20
    assert silent_H.tolist() == [False, False, True, True, False, False]


def test_blocks_are_spread_over_the_text(child_blocks: Blocks) -> None:
    every = child_blocks.batch(np.arange(12))
    assert np.array_equal(calibration_ids(child_blocks, 99), every)
    assert np.array_equal(calibration_ids(child_blocks, 3), every[[2, 6, 10]])
    with pytest.raises(CorpusError, match="1 blocks of 100 tokens; two at least"):
        calibration_ids(Blocks(child_blocks.tokens, 100), 5)


def test_methods_that_look_at_text_need_it(parent_folder: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    with pytest.raises(RecipeError, match=r"inherit\(..., calibration=blocks\)"):
        inherit(checkpoint, checkpoint.shape, np.arange(60), neurons="energy", rng=rng())
