"""Gradient scores: finite differences, batches of any size, and where mean gradients mislead."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.model.checkpoint import open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses
from pocketlm.stages.inherit import inherit
from pocketlm.stages.inherit.calibration import calibration_ids
from pocketlm.stages.inherit.gradients import fisher_statistics, taylor_statistics

KEPT_V = np.random.default_rng(3).permutation(60)[:50]
STEP = 1e-2


@pytest.fixture(scope="module")
def ids_NT1() -> np.ndarray:
    return calibration_ids(Blocks(np.random.default_rng(2).integers(0, 50, 10 * 16 + 1), 16), 10)


@pytest.fixture(scope="module")
def calm(parent: Child) -> Child:
    """The parent over the kept tokens with smaller weights, so that differences are smooth."""
    tensors = {}
    for name, tensor in parent.tensors.items():
        rows = torch.from_numpy(KEPT_V) if tensor.shape[0] == 60 else slice(None)
        tensors[name] = tensor[rows] * (0.5 if tensor.ndim == 2 else 1.0)
    return Child(config={**parent.config, "vocab_size": 50}, tensors=tensors)


def losses(child: Child, ids_NT1: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = block_losses(child.network(), torch.from_numpy(ids_NT1))
    return found.double().numpy()


def slope(child: Child, ids_NT1: np.ndarray, where: dict[str, object]) -> np.ndarray:
    """d loss / d scale of the entries `where` (name -> index), for each block."""

    def moved(factor: float) -> np.ndarray:
        tensors = {name: tensor.clone() for name, tensor in child.tensors.items()}
        for name, index in where.items():
            tensors[name][index] *= factor  # type: ignore[index]
        return losses(replace(child, tensors=tensors), ids_NT1)

    return (moved(1 + STEP) - moved(1 - STEP)) / (2 * STEP)


@pytest.fixture(scope="module")
def folder(calm: Child, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calm")
    save_child(calm, path)
    return path


def test_fisher_is_the_squared_slope_of_a_mask(
    calm: Child, folder: Path, ids_NT1: np.ndarray
) -> None:
    found = fisher_statistics(open_checkpoint(folder), np.arange(50), ids_NT1)
    for layer, neuron in ((0, 3), (2, 11), (3, 39)):
        where = {f"model.layers.{layer}.mlp.down_proj.weight": (slice(None), neuron)}
        expected = (slope(calm, ids_NT1, where) ** 2).sum()
        assert found["ffn.fisher"][layer, neuron] == pytest.approx(expected, rel=2e-2, abs=1e-7)
    for layer, head in ((0, 1), (3, 5)):
        columns = slice(8 * head, 8 * head + 8)
        where = {f"model.layers.{layer}.self_attn.o_proj.weight": (slice(None), columns)}
        expected = (slope(calm, ids_NT1, where) ** 2).sum()
        assert found["heads.fisher"][layer, head] == pytest.approx(expected, rel=2e-2, abs=1e-7)
    for channel in (0, 47):
        where = {"model.embed_tokens.weight": (slice(None), channel)}
        for layer in range(4):
            where[f"model.layers.{layer}.mlp.down_proj.weight"] = (channel, slice(None))
            where[f"model.layers.{layer}.self_attn.o_proj.weight"] = (channel, slice(None))
        expected = (slope(calm, ids_NT1, where) ** 2).sum()
        assert found["hidden.fisher"][channel] == pytest.approx(expected, rel=2e-2)


def test_taylor_is_the_slope_of_every_weight(
    calm: Child, folder: Path, ids_NT1: np.ndarray
) -> None:
    """A neuron's 3 x 48 weights one by one: |d loss / d log weight|, summed."""
    found = taylor_statistics(open_checkpoint(folder), np.arange(50), ids_NT1)
    network = calm.network()
    block_losses(network, torch.from_numpy(ids_NT1)).mean().backward()
    parameters = dict(network.named_parameters())

    def size(name: str, index: object) -> float:
        parameter = parameters[f"model.layers.2.{name}.weight"]
        return (parameter * parameter.grad)[index].abs().sum().item()  # type: ignore[index]

    by_hand = size("mlp.gate_proj", 7) + size("mlp.up_proj", 7)
    by_hand += size("mlp.down_proj", (slice(None), 7))
    assert found["ffn.taylor"][2, 7] == pytest.approx(by_hand, rel=1e-5)
    rows = slice(16, 24)
    by_hand = size("self_attn.q_proj", rows) + size("self_attn.o_proj", (slice(None), rows))
    assert found["heads.taylor"][2, 2] == pytest.approx(by_hand, rel=1e-5)
    total = sum((p * p.grad).abs()[..., 5].sum().item() for n, p in parameters.items()
                if not any(part in n for part in ("o_proj", "down_proj")))  # fmt: skip
    total += sum((p * p.grad).abs()[5].sum().item() for n, p in parameters.items()
                 if any(part in n for part in ("o_proj", "down_proj")))  # fmt: skip
    assert found["hidden.taylor"][5] == pytest.approx(total, rel=1e-5)
    name = "model.layers.2.mlp.up_proj.weight"
    sizes = (parameters[name] * parameters[name].grad).detach().abs()  # type: ignore[operator]
    row, column = divmod(int(sizes.argmax()), 48)
    measured = abs(slope(calm, ids_NT1, {name: (row, column)}).mean())
    assert measured == pytest.approx(sizes[row, column].item(), rel=5e-2)


@pytest.mark.parametrize("statistics", [taylor_statistics, fisher_statistics])
def test_batches_change_nothing(  # type: ignore[no-untyped-def]
    statistics, parent_folder: Path, ids_NT1: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    whole = statistics(checkpoint, KEPT_V, ids_NT1)
    monkeypatch.setattr("pocketlm.stages.inherit.whole.BATCH_BLOCKS", 3)
    for name, values in statistics(checkpoint, KEPT_V, ids_NT1).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("neurons", ["taylor", "fisher"])
def test_a_child_of_each(parent_folder: Path, blocks: Blocks, neurons: str) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, layers=2, hidden=24, heads=3, ffn=16)
    child = inherit(
        checkpoint,
        shape,
        np.arange(60),
        neurons=neurons,
        calibration=blocks,
        rng=np.random.default_rng(0),
    )
    assert child.shape == shape
