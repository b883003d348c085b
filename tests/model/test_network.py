"""Tensors into transformers: equal to from_pretrained, strict, and no side effects."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pocketlm.errors import StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child


def test_equals_from_pretrained(tiny_parent: Path) -> None:
    ids = torch.arange(40)[None]
    before = torch.get_rng_state()
    network = load_child(tiny_parent).network()
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert network.config.use_cache
    reference = AutoModelForCausalLM.from_pretrained(tiny_parent).eval()
    assert torch.equal(network(ids).logits, reference(ids).logits)


def test_training_the_network_leaves_the_child_alone(tiny_parent: Path) -> None:
    child = load_child(tiny_parent)
    before = {name: tensor.clone() for name, tensor in child.tensors.items()}
    with torch.no_grad():
        for parameter in child.network().parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in child.tensors.items())


def test_attention_is_a_choice(tiny_parent: Path) -> None:
    child, ids = load_child(tiny_parent), torch.arange(20)[None]
    eager, sdpa = child.network(attention="eager"), child.network()
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(ids).logits, sdpa(ids).logits, atol=1e-4, rtol=1e-4)


def test_strict(tiny_parent: Path) -> None:
    child = load_child(tiny_parent)
    norm = "model.norm.weight"
    short = {name: tensor for name, tensor in child.tensors.items() if name != norm}
    with pytest.raises(StageError, match=r"missing model\.norm\.weight, left over none"):
        Child(config=child.config, tensors=short).network()
    with pytest.raises(StageError, match="left over extra"):
        Child(config=child.config, tensors={**child.tensors, "extra": torch.ones(1)}).network()
    with pytest.raises(StageError, match="size mismatch"):
        Child(config=child.config, tensors={**child.tensors, norm: torch.ones(3)}).network()
    untied = {**child.config, "tie_word_embeddings": False}
    with pytest.raises(StageError, match=r"missing lm_head\.weight"):
        Child(config=untied, tensors=child.tensors).network()
