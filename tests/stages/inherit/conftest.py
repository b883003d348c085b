"""A small parent with plain random weights, in memory and on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.model.checkpoint import Checkpoint, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape
from pocketlm.model.start import base_config, constant

PARENT_SHAPE = Shape(
    family="llama",
    vocab_size=60,
    layers=4,
    hidden=48,
    heads=6,
    kv_heads=3,
    head_dim=8,
    ffn=40,
    tied=False,
)


@pytest.fixture(scope="session")
def parent() -> Child:
    """4 layers x 48, 6/3 heads of 8, ffn 40, 60 tokens, untied; weights wide enough to matter."""
    config = base_config(PARENT_SHAPE, max_positions=64, bos_id=1, eos_id=2)
    rng = torch.Generator().manual_seed(0)
    child = constant(config, PARENT_SHAPE, rng)
    tensors = {
        name: 10 * tensor
        if tensor.ndim == 2
        else 1 + 0.3 * torch.randn(tensor.shape, generator=rng)
        for name, tensor in child.tensors.items()
    }
    return Child(config=child.config, tensors=tensors)


@pytest.fixture(scope="session")
def parent_folder(parent: Child, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same parent as a checkpoint."""
    folder = tmp_path_factory.mktemp("parent")
    save_child(parent, folder)
    return folder


@pytest.fixture(scope="session")
def blocks() -> Blocks:
    """12 blocks of 16 tokens of the parent's own ids."""
    return Blocks(np.random.default_rng(1).integers(0, 60, 12 * 16 + 1), 16)


@pytest.fixture(scope="session")
def save() -> Callable[[Child, Path], Checkpoint]:
    """Write a child and open it as a parent."""

    def saved(child: Child, folder: Path) -> Checkpoint:
        save_child(child, folder)
        return open_checkpoint(folder)

    return saved
