"""Statistics of gradients: what the loss says about weights and units. The parent is in memory.

`taylor` is the paper's first-order criterion in the form of LLM-Pruner (arXiv 2305.11627, equation
5, mean gradient, sizes summed over the weights of a unit). `fisher` puts a mask of ones on every
unit and sums its squared gradient over blocks (Kwon et al., arXiv 2204.09656, section 4.1): no
gradient of a weight is ever made, and blocks cannot cancel each other.
Shapes: B of N blocks, T tokens; L layers, F neurons, H heads, D channels, W inputs of a matrix.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.family import tensors_of
from pocketlm.model.loss import block_losses
from pocketlm.model.shape import Shape
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.inherit.calibration import Array, Indices
from pocketlm.stages.inherit.neurons import axis_sums, by_unit
from pocketlm.stages.inherit.one_layer import watched_rows
from pocketlm.stages.inherit.whole import batches, whole_bytes, whole_parent
from pocketlm.units import show_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def taylor_statistics(
    parent: Checkpoint, kept_V: Indices, ids_NT1: Indices, *, progress: Progress = SILENT
) -> dict[str, Array]:
    """`ffn.taylor` (L, F), `heads.taylor` (L, H), `hidden.taylor` (D).

    sum |w dl/dw| over the weights of each unit, l the mean loss of the blocks, nats per token.
    Holds the parent and one gradient a weight, float32.
    """
    import torch

    size = whole_bytes(parent, kept_V, ids_NT1.shape[1] - 1, copies=2)
    whole = whole_parent(parent, kept_V)
    network = whole.network()
    label = f"taylor, parent and gradient in memory: {show_bytes(size)}"
    with progress.task(label, len(ids_NT1), "blocks") as advance:
        for ids_BT1 in batches(ids_NT1):
            torch.autograd.backward(block_losses(network, ids_BT1).sum() / len(ids_NT1))
            advance(len(ids_BT1))
    weights = dict(network.named_parameters())
    sums = (
        (placed, axis_sums((weight * weight.grad).detach(), power=1))
        for placed in tensors_of(whole.shape)
        if (weight := weights[placed.name]).grad is not None
    )
    scores = by_unit(whole.shape, range(whole.shape.layers), sums)
    found = {"ffn": np.stack(scores.ffn), "heads": np.stack(scores.heads), "hidden": scores.hidden}
    return {f"{kind}.taylor": values for kind, values in found.items()}


def fisher_statistics(
    parent: Checkpoint, kept_V: Indices, ids_NT1: Indices, *, progress: Progress = SILENT
) -> dict[str, Array]:
    """`ffn.fisher` (L, F), `heads.fisher` (L, H), `hidden.fisher` (D).

    sum over blocks of (dl/dm)^2 for the mask m of a neuron's output, of a head's output, and of a
    channel in all that is written to the stream. Holds the parent and one batch's activations.
    """
    size = whole_bytes(parent, kept_V, ids_NT1.shape[1] - 1)
    shape = parent.shape.with_vocab(kept_V.size)
    network = whole_parent(parent, kept_V).network().requires_grad_(False)
    masks = _Masks(network, shape)
    label = f"fisher, the parent in memory: {show_bytes(size)}"
    found: dict[str, Any] = {}
    with progress.task(label, len(ids_NT1), "blocks") as advance:
        for ids_BT1 in batches(ids_NT1):
            for kind, gradient in masks.gradients(ids_BT1).items():
                found[kind] = found.get(kind, 0.0) + gradient.double().square().sum(0).numpy()
            advance(len(ids_BT1))
    return {f"{kind}.fisher": values for kind, values in found.items()}


class _Masks:
    """Masks of ones on every unit of a network, a copy for each block of a batch."""

    def __init__(self, network: "PreTrainedModel", shape: Shape) -> None:
        self._network, self._shape = network, shape
        self._masks: dict[str, torch.Tensor] = {}
        network.get_input_embeddings().register_forward_hook(self._mask_channels)
        for layer in range(shape.layers):
            for row in watched_rows(shape.family):
                if row.writes_residual:
                    path = row.name.format(layer=layer).removesuffix(".weight")
                    writer = network.get_submodule(path)
                    writer.register_forward_hook(self._mask_channels)
                    writer.register_forward_pre_hook(self._mask_units(row.axes[1], layer))

    def gradients(self, ids_BT1: "torch.Tensor") -> "dict[str, torch.Tensor]":
        """Of each block's own loss: `ffn` (B, L, F), `heads` (B, L, H), `hidden` (B, D)."""
        import torch

        shape, num_blocks = self._shape, len(ids_BT1)
        self._masks = {
            "ffn": torch.ones(num_blocks, shape.layers, shape.ffn, requires_grad=True),
            "heads": torch.ones(num_blocks, shape.layers, shape.heads, requires_grad=True),
            "hidden": torch.ones(num_blocks, shape.hidden, requires_grad=True),
        }
        loss = block_losses(self._network, ids_BT1).sum()
        gradients = torch.autograd.grad(loss, list(self._masks.values()))
        return dict(zip(self._masks, gradients, strict=True))

    def _mask_channels(self, _: Any, __: Any, output_BTD: "torch.Tensor") -> "torch.Tensor":
        return output_BTD * self._masks["hidden"][:, None]

    def _mask_units(self, kind: str, layer: int) -> Any:
        def mask(_: Any, inputs: "tuple[torch.Tensor]") -> "tuple[torch.Tensor]":
            (into_BTW,) = inputs
            mask_BU = self._masks[kind][:, layer]
            mask_BW = mask_BU.repeat_interleave(into_BTW.shape[-1] // mask_BU.shape[-1], dim=-1)
            return (into_BTW * mask_BW[:, None],)

        return mask
