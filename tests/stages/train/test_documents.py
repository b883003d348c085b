"""`document_mask`: a packed block costs what its documents cost alone."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.row import Part, TokenRow
from pocketlm.errors import StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.loss import block_losses
from pocketlm.model.neutral import from_llama
from pocketlm.stages.train import train

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
