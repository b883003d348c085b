"""Attention in query blocks: every family's logits and gradients as with eager attention."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pocketlm.model import attention
from pocketlm.model.attention import QUERY_BLOCKS, block_attention, register_attention
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses


def losses_and_gradients(
    child: Child, name: str, ids: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    register_attention()
    network = child.network(attention=name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        losses_B = block_losses(network, ids)
    losses_B.mean().backward()  # type: ignore[no-untyped-call]  # torch has no types here
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return losses_B.detach(), gradients


def test_every_family_agrees_with_eager(
    family_parent: Callable[..., Path], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 8, layers without positions, shared keys; blocks of 5 rows, the last of 3."""
    monkeypatch.setattr(attention, "_ROWS", 5)
    monkeypatch.setattr(attention, "_MOST_BLOCKS", 23)
    child = load_child(family_parent(variant))
    ids = torch.randint(0, 60, (2, 24), generator=torch.Generator().manual_seed(0))
    for dtype, within in ((torch.float32, 2e-5), (torch.bfloat16, 4e-2)):
        loss, gradients = losses_and_gradients(child, "eager", ids, dtype)
        ours, our_gradients = losses_and_gradients(child, QUERY_BLOCKS, ids, dtype)
        torch.testing.assert_close(ours, loss, rtol=within, atol=within)
        largest = max(gradient.norm() for gradient in gradients.values())
        for name, gradient in gradients.items():
            # Biases of keys without positions have gradient zero but for rounding.
            error = (our_gradients[name] - gradient).norm() / gradient.norm().clamp(1e-2 * largest)
            assert error < 5 * within, (name, dtype, float(error))


def test_a_window_hides_what_is_before_it() -> None:
    """Row t sees keys t - 2, t - 1 and t: changing an older value changes nothing."""
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 4, generator=rng) for _ in range(3))
    module = torch.nn.Module()
    before, _ = block_attention(module, query, key, value, None, sliding_window=3)
    value[:, :, 2] += 1.0
    after, _ = block_attention(module, query, key, value, None, sliding_window=3)
    changed_T = (before != after).any(dim=(0, 2, 3))
    assert changed_T.nonzero().flatten().tolist() == [2, 3, 4]


def test_masks_and_caches_are_refused() -> None:
    query, key = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="whole sequences"):
        block_attention(torch.nn.Module(), query, key, key, None)
    with pytest.raises(ValueError, match="whole sequences"):
        block_attention(torch.nn.Module(), query, query, query, torch.ones(1, 1, 4, 4))
