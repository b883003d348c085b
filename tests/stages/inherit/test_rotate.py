"""One rotation of the stream: nothing changes at full width, tied stays tied, others refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.family import load_family
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit import inherit, measure
from pocketlm.stages.inherit.rotate import check_rotates, principal_basis, rotate, tie

IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(5))
EVERY_TOKEN = np.arange(60)


def logits(child: Child) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = child.network()(IDS).logits
    return out


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def orthogonal(size: int) -> torch.Tensor:
    values = torch.randn(
        size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return torch.linalg.qr(values)[0]


def tied(parent: Child, final_gain: torch.Tensor) -> Child:
    tensors = {n: t for n, t in parent.tensors.items() if n != "lm_head.weight"}
    tensors["model.norm.weight"] = final_gain
    return Child(config={**parent.config, "tie_word_embeddings": True}, tensors=tensors)


def test_any_rotation_at_full_width_computes_the_same(parent: Child) -> None:
    turned = rotate(parent, orthogonal(48))
    torch.testing.assert_close(logits(turned), logits(parent), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(turned.tensors["lm_head.weight"], parent.tensors["lm_head.weight"])


def test_a_tied_parent_with_an_even_final_gain_too(parent: Child) -> None:
    one = tied(parent, torch.full((48,), 1.7))
    turned = rotate(one, orthogonal(48))
    assert "lm_head.weight" not in turned.tensors
    torch.testing.assert_close(logits(turned), logits(one), atol=1e-4, rtol=1e-4)


def test_ties_that_exist_are_found_and_others_are_least_squares() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    gain = torch.rand(5, dtype=torch.float64, generator=generator) + 0.5
    found, found_gain = tie(table, table * gain)
    torch.testing.assert_close(found, table)
    torch.testing.assert_close(found_gain, gain)
    head = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    weight = table.square().sum() / head.square().sum()

    def error(table_VK: torch.Tensor, gain_K: torch.Tensor) -> torch.Tensor:
        return (table_VK - table).square().sum() + weight * (
            table_VK * gain_K - head
        ).square().sum()

    found, found_gain = tie(table, head)
    best = error(found, found_gain)
    for _ in range(20):
        step = 1e-3 * torch.randn(found.shape, dtype=torch.float64, generator=generator)
        assert error(found + step, found_gain) > best
        assert error(found, found_gain + step[0]) > best


def test_a_stream_of_few_directions_loses_nothing(parent: Child, tmp_path: Path) -> None:
    """Everything that writes the stream writes into 20 directions: 20 channels are enough."""
    basis = orthogonal(48)[:, :20].float()
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensors[name] = basis @ (basis.T @ tensor)
    tensors["model.embed_tokens.weight"] = parent.tensors["model.embed_tokens.weight"] @ (
        basis @ basis.T
    )
    flat = replace(parent, tensors=tensors)
    save_child(flat, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    shape = replace(checkpoint.shape, hidden=24)
    blocks = Blocks(np.random.default_rng(1).integers(0, 60, 12 * 16 + 1), 16)
    settings = {"hidden": "rotate", "norm_energy": True, "refit": "none"}
    child = inherit(checkpoint, shape, EVERY_TOKEN, calibration=blocks, rng=rng(), **settings)
    assert child.shape == shape
    # All energy stays, over fewer channels: the correction is exactly sqrt(48 / 24).
    gain = child.tensors["model.layers.2.input_layernorm.weight"]
    torch.testing.assert_close(gain, torch.full((24,), 2.0**0.5), rtol=1e-5, atol=0)
    eps = flat.config["rms_norm_eps"] * 2
    same = replace(child, config={**child.config, "rms_norm_eps": eps})
    torch.testing.assert_close(logits(same), logits(flat), atol=1e-4, rtol=1e-4)
    picked = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    assert not torch.allclose(logits(picked), logits(flat), atol=1e-1)


def test_the_basis_is_data() -> None:
    values = np.random.default_rng(0).normal(size=(100, 8)) * np.arange(8, 0, -1)
    moment = values.T @ values / 100
    basis = principal_basis(moment, 3).numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    kept = np.diag(basis.T @ moment @ basis)
    np.testing.assert_allclose(kept, np.linalg.eigvalsh(moment)[::-1][:3])
    assert (basis[np.abs(basis).argmax(0), np.arange(3)] > 0).all()
    assert np.array_equal(principal_basis(moment, 8)[:, :3].numpy(), basis)


def test_at_its_own_width_nothing_is_rotated(
    parent: Child, parent_folder: Path, blocks: Blocks
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    settings = {"hidden": "rotate", "norm_energy": True, "refit": "stream"}
    child = inherit(
        checkpoint, checkpoint.shape, EVERY_TOKEN, calibration=blocks, rng=rng(), **settings
    )
    assert all(torch.equal(child.tensors[n], t) for n, t in parent.tensors.items())


def test_a_rotated_child_loads_and_a_second_cut_is_the_same(
    parent_folder: Path, blocks: Blocks, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    table = InheritTable(hidden="rotate", neurons="energy")
    calibration = measure(checkpoint, EVERY_TOKEN, blocks, table)
    for hidden in (24, 30):
        shape = replace(checkpoint.shape, hidden=hidden, layers=2, ffn=24)
        pair = [
            inherit(
                checkpoint,
                shape,
                EVERY_TOKEN,
                calibration=given,
                rng=rng(),
                hidden="rotate",
                neurons="energy",
            )
            for given in (blocks, calibration)
        ]
        assert all(torch.equal(pair[0].tensors[n], t) for n, t in pair[1].tensors.items())
        save_child(pair[0], tmp_path)
        assert torch.equal(logits(load_child(tmp_path)), logits(pair[0]))


def test_other_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    family = load_family("llama").model_copy(update={"rotates": False})
    monkeypatch.setattr("pocketlm.stages.inherit.rotate.load_family", lambda name: family)
    with pytest.raises(RecipeError, match="hidden = 'rotate': llama does not read"):
        check_rotates("llama")
