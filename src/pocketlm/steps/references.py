"""What training compares with: the parent on the child's own blocks, and text held back.

A child's vocabulary is a part of its parent's, so the parent reads the child's segmentation: its
embedding and head are cut to the kept tokens, and softmax over those is the parent renormalised.
Shapes: N blocks, B of them at once.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.corpus.shards import open_tokens
from pocketlm.hardware import resolve_hardware
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.steps.materials import Materials

if TYPE_CHECKING:
    import torch

    from pocketlm.stages.train import References
    from pocketlm.stages.train.distil import Prediction, Teacher
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
        teacher=teacher(run) if has_parent and run.recipe.train.distils else None,
    )


def parent_losses(run: Materials, blocks: Blocks) -> "Callable[[], BlockLosses]":
    """Reads the parent into memory; what it gives, in child ids, holds it there."""

    def open_parent() -> "BlockLosses":
        from pocketlm.model.loss import block_losses

        network, arithmetic = _open_parent(run)

        def losses(block_B: IntArray) -> FloatArray:
            import torch

            with torch.inference_mode(), arithmetic():
                batch = _batch(run, blocks, block_B, network.device)
                loss_B: FloatArray = block_losses(network, *batch).cpu().numpy()
            return loss_B

        return losses

    return open_parent


def teacher(run: Materials) -> "Callable[[], Teacher]":
    """Opens what the child learns from: the parent in memory, or its predictions on disk."""
    table = run.recipe.train

    def open_teacher() -> "Teacher":
        import torch

        from pocketlm.stages.train.distil import predict
        from pocketlm.stages.train.stored import open_predictions

        if table.distil_from == "stored":
            device = torch.device(resolve_hardware(table.dtype).device)
            return open_predictions(run.made["teacher"].folder, device)
        network, arithmetic = _open_parent(run)

        def predictions(_: IntArray, ids: Any, places: Any) -> "Prediction":
            with arithmetic():
                return predict(
                    network,
                    ids,
                    places,
                    temperature=table.distil_temperature,
                    num_tokens=table.distil_tokens,
                )

        return predictions

    return open_teacher


def write_predictions(run: Materials, blocks: Blocks, files: Path, resume: Path) -> int:
    """All that the parent predicts of the training blocks; returns the tokens kept a place."""
    from pocketlm.stages.train.distil import predict
    from pocketlm.stages.train.stored import store_predictions

    table, vocab_size = run.recipe.train, int(np.load(_kept_V(run)).size)
    num_tokens = min(table.distil_tokens, vocab_size - 1)
    network, arithmetic = _open_parent(run)

    def predictions(block_B: IntArray) -> "Prediction":
        with arithmetic():
            batch = _batch(run, blocks, block_B, network.device)
            return predict(
                network, *batch, temperature=table.distil_temperature, num_tokens=num_tokens
            )

    store_predictions(
        files,
        resume,
        predictions,
        shape_NTK=(len(blocks), blocks.seq_len, num_tokens),
        vocab_size=vocab_size,
        progress=run.progress,
    )
    return num_tokens


def _open_parent(run: Materials) -> "tuple[Any, Callable[[], torch.autocast]]":
    """The parent on the device, reading child ids, and the arithmetic it computes in."""
    import torch

    hardware = resolve_hardware(run.recipe.train.dtype)
    network, low = _narrow_parent(run).to(hardware.device), hardware.dtype == "bfloat16"
    return network, partial(torch.autocast, hardware.device, dtype=torch.bfloat16, enabled=low)


def _batch(run: Materials, blocks: Blocks, block_B: IntArray, device: Any) -> tuple[Any, Any]:
    """Ids and, where documents do not see each other, places of some blocks."""
    import torch

    masked = run.recipe.train.document_mask
    place_BT = torch.from_numpy(blocks.positions(block_B)).to(device) if masked else None
    return torch.from_numpy(blocks.batch(block_B)).to(device), place_BT


def _narrow_parent(run: Materials) -> Any:
    """The whole parent, its vocabulary cut to the child's."""
    from pocketlm.stages.inherit import inherit

    assert run.inputs.parent is not None  # nobody asks otherwise
    parent, kept_V = open_checkpoint(run.inputs.parent), np.load(_kept_V(run))
    shape = replace(parent.shape, vocab_size=kept_V.size)
    # Nothing is chosen at the parent's own shape, so the generator draws nothing.
    return inherit(parent, shape, kept_V, rng=np.random.default_rng(0)).network().eval()


def _kept_V(run: Materials) -> Path:
    return run.made["compact"].path("kept_V.npy")


def _held_out(run: Materials) -> Blocks | None:
    """The choosing split, tokenised like the training text; None where it is empty."""
    row = open_tokens(run.made["tokens"].folder, "choose")
    return Blocks(row, run.recipe.train.seq_len) if len(row) else None
