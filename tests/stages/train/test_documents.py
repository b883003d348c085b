"""`document_mask`: a packed block costs what its documents cost alone."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.row import Part, TokenRow
from pocketlm.errors import StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.loss import block_losses
from pocketlm.model.neutral import from_llama
from pocketlm.recipe import TrainTable
from pocketlm.stages.train import References, train
from pocketlm.stages.train.automatic import usual_choices
from pocketlm.stages.train.step import Step

LENGTHS = [13, 1, 2, 17, 9, 30, 8]  # two blocks of 32, edges inside documents; windows see 8


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    ids = np.random.default_rng(3).integers(3, 60, sum(LENGTHS))
    part = Part(ids, np.cumsum(LENGTHS), np.array(LENGTHS) * 3)
    row = TokenRow(lambda _: part, tokens_P=[len(ids)], bytes_P=[3 * len(ids)], sources_P=["text"])
    return Blocks(row, 32)


def packed_and_alone(network: Any, blocks: Blocks) -> tuple[Any, Any, Any]:
    """Losses of the blocks with and without the mask, and of their documents run alone."""
    number_B = np.arange(len(blocks))
    ids_BT1 = torch.from_numpy(blocks.batch(number_B))
    place_BT = torch.from_numpy(blocks.positions(number_B))
    with torch.inference_mode():
        packed = block_losses(network, ids_BT1, place_BT)
        plain = block_losses(network, ids_BT1)
        alone = []
        for ids_T1, place_T in zip(ids_BT1, place_BT, strict=True):
            begins = [*(place_T == 0).nonzero()[:, 0].tolist(), blocks.seq_len]
            sums = [
                block_losses(network, ids_T1[None, begin : end + 1]) * (end - begin)
                for begin, end in pairwise(begins)
            ]
            alone.append(torch.cat(sums).sum() / blocks.seq_len)
    return packed, plain, torch.stack(alone)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_is_alone_for_every_family(
    variant: str, family_parent: Callable[..., Path], blocks: Blocks, attention: str
) -> None:
    if attention == "eager" and variant not in ("llama", "mistral", "smollm3", "gpt_neox"):
        pytest.skip("sdpa stands for the rest")
    network = load_child(family_parent(variant)).network(attention=attention)
    packed, plain, alone = packed_and_alone(network, blocks)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    assert (packed - plain).abs().min() > 1e-3


def test_packed_is_alone_for_pangu_pi(tiny_parent: Path, blocks: Blocks) -> None:
    rng = torch.Generator().manual_seed(0)
    child = from_llama(load_child(tiny_parent), num_activations=2, shortcut_width=3, rng=rng)
    packed, plain, alone = packed_and_alone(child.network(), blocks)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    assert (packed - plain).abs().min() > 1e-4


def test_attention_that_takes_no_mask_is_refused(blocks: Blocks) -> None:
    network: Any = SimpleNamespace(config=SimpleNamespace(_attn_implementation="query-blocks"))
    with pytest.raises(StageError, match="'query-blocks' takes no mask"):
        block_losses(network, torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 2))


def test_training_masks_where_asked_and_counts_bytes(tiny_parent: Path, blocks: Blocks) -> None:
    """At a rate of almost nothing the ledger holds the losses of the first weights."""
    child = load_child(tiny_parent)
    settings = {"rounds": 1, "batch_tokens": 32, "learning_rate": 1e-12, "dtype": "float32"}
    packed, plain, _ = packed_and_alone(child.network(), blocks)
    for mask, expected in ((True, packed), (False, plain)):
        rng = np.random.default_rng(0)
        trained = train(child, blocks, rng=rng, document_mask=mask, **settings)
        np.testing.assert_allclose(trained.ledger_N, expected.numpy(), rtol=1e-4)
        assert trained.num_bytes == 3 * 64
    assert abs(packed - plain).max() > 1e-3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_automatic_attention_takes_masks(
    tiny_parent: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketlm.stages.train.automatic.device_bytes", lambda device: 2**34)
    shape, table = load_child(tiny_parent).shape, TrainTable(seq_len=32, document_mask=True)
    assert usual_choices(shape, table, device).attention == "sdpa"
    with pytest.raises(ValidationError, match="'query-blocks' takes no mask"):
        TrainTable(document_mask=True, attention="query-blocks")


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_tokens": 32},
        {"cross_entropy": "chunked"},
        {"cross_entropy": "chunked", "micro_batch_tokens": 32, "recompute": True},
        {"attention": "eager"},
    ],
    ids=str,
)
def test_masked_gradients_are_the_same_however_made(
    tiny_parent: Path, blocks: Blocks, changes: dict[str, Any]
) -> None:
    def made(**changes: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        table = {"seq_len": 32, "batch_tokens": 64, "dtype": "float32", "compile": False}
        step = Step(load_child(tiny_parent), TrainTable(**table, document_mask=True, **changes))
        losses_B = step.gradients(ids_BT1, place_BT)
        torch.testing.assert_close(step.losses(ids_BT1, place_BT), losses_B)
        return losses_B, [p.grad for p in step.network.parameters() if p.grad is not None]

    number_B = np.arange(len(blocks))
    ids_BT1 = torch.from_numpy(blocks.batch(number_B))
    place_BT = torch.from_numpy(blocks.positions(number_B))
    losses_B, expected = made()
    ours_B, found = made(**changes)
    torch.testing.assert_close(ours_B, losses_B)
    packed, plain, _ = packed_and_alone(load_child(tiny_parent).network(), blocks)
    torch.testing.assert_close(ours_B, packed)
    assert (packed - plain).abs().max() > 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * max(1.0, float(theirs.norm()))


def test_probes_and_scoring_mask_too(tiny_parent: Path, blocks: Blocks) -> None:
    """At a rate of almost nothing every look sees the losses of the first weights."""
    child, held_out = load_child(tiny_parent), Blocks(blocks.tokens, 16)
    trained = train(
        child,
        blocks,
        rng=np.random.default_rng(0),
        references=References(held_out=held_out),
        rounds=2,
        batch_tokens=32,
        learning_rate=1e-12,
        dtype="float32",
        document_mask=True,
        probe_parts=1,
        probe_blocks=2,
    )
    packed, _, _ = packed_and_alone(child.network(), blocks)
    yardstick, plain, _ = packed_and_alone(child.network(), held_out)
    assert abs(yardstick.mean() - plain.mean()) > 1e-3
    assert trained.num_scored == 2 + len(trained.probes) * (2 + len(held_out))
    for row in trained.probes:
        assert row["part_1"] == pytest.approx(float(packed.mean()), rel=1e-4)
        assert row["yardstick"] == pytest.approx(float(yardstick.mean()), rel=1e-4)
    weight_N = torch.softmax(packed, 0)
    assert trained.effective_sizes == pytest.approx([1 / float((weight_N**2).sum())], rel=1e-4)
    assert trained.num_bytes == 3 * (64 + 32)
