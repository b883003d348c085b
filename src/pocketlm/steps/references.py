"""What training compares with: the parent on the child's own blocks, and text held back.

A child's vocabulary is a part of its parent's, so the parent reads the child's segmentation: its
embedding and head are cut to the kept tokens, and softmax over those is the parent renormalised.
Shapes: N blocks, B of them at once.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.corpus.shards import open_tokens
from pocketlm.hardware import resolve_hardware
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.steps.materials import Materials

if TYPE_CHECKING:
    from pocketlm.stages.train import References
    from pocketlm.stages.train.resample import BlockLosses

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


def references_for(run: Materials, blocks: Blocks) -> "References":
    """What `[train]` of this run may ask for; the parent is read when it is asked."""
    from pocketlm.stages.train import References
    from pocketlm.stages.train.resample import watches

    has_parent = run.inputs.parent is not None
    return References(
        parent_losses=parent_losses(run, blocks) if has_parent else None,
        held_out=_held_out(run) if watches(run.recipe.train) else None,
    )


def parent_losses(run: Materials, blocks: Blocks) -> "Callable[[], BlockLosses]":
    """Reads the parent into memory; what it gives, in child ids, holds it there."""

    def open_parent() -> "BlockLosses":
        import torch

        from pocketlm.model.loss import block_losses

        hardware = resolve_hardware(run.recipe.train.dtype)
        device = torch.device(hardware.device)
        network, low = _narrow_parent(run).to(device), hardware.dtype == "bfloat16"
        masked = run.recipe.train.document_mask

        def losses(block_B: IntArray) -> FloatArray:
            ids_BT1 = torch.from_numpy(blocks.batch(block_B)).to(device)
            cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=low)
            place_BT = torch.from_numpy(blocks.positions(block_B)).to(device) if masked else None
            with torch.inference_mode(), cast:
                loss_B: FloatArray = block_losses(network, ids_BT1, place_BT).cpu().numpy()
            return loss_B

        return losses

    return open_parent


def _narrow_parent(run: Materials) -> Any:
    """The whole parent, its vocabulary cut to the child's."""
    from dataclasses import replace

    from pocketlm.stages.inherit import inherit

    assert run.inputs.parent is not None  # nobody asks otherwise
    parent = open_checkpoint(run.inputs.parent)
    kept_V = np.load(run.made["compact"].path("kept_V.npy"))
    shape = replace(parent.shape, vocab_size=kept_V.size)
    # Nothing is chosen at the parent's own shape, so the generator draws nothing.
    return inherit(parent, shape, kept_V, rng=np.random.default_rng(0)).network()


def _held_out(run: Materials) -> Blocks | None:
    """The choosing split, tokenised like the training text; None where it is empty."""
    row = open_tokens(run.made["tokens"].folder, "choose")
    return Blocks(row, run.recipe.train.seq_len) if len(row) else None
