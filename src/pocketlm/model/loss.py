"""The loss of a language model, one number a block.

Shapes: B blocks, T tokens, V vocabulary, D hidden.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def block_losses(network: "PreTrainedModel", ids_BT1: "torch.Tensor") -> "torch.Tensor":
    """Mean cross-entropy of each block, nats per token, float32, shape (B,).

    `ids_BT1` holds T + 1 ids a block: inputs and, shifted by one, targets. The mean of the result
    is the usual training loss, since all blocks are equally long.
    """
    from torch.nn.functional import cross_entropy

    logits_BTV = network(input_ids=ids_BT1[:, :-1], use_cache=False).logits
    losses_BT = cross_entropy(
        logits_BTV.float().flatten(0, 1), ids_BT1[:, 1:].flatten(), reduction="none"
    )
    return losses_BT.view(ids_BT1.shape[0], -1).mean(dim=1)


def summed_loss(
    network: "PreTrainedModel", ids_BT1: "torch.Tensor", *, chunked: bool
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Sum of `block_losses`, to call backward on, and the losses (B,) without a gradient.

    `chunked` makes logits and gradients of the head a chunk of tokens at a time: less memory, the
    same numbers but for rounding.
    """
    if not chunked:
        losses_B = block_losses(network, ids_BT1)
        return losses_B.sum(), losses_B.detach()
    from pocketlm.model.chunked_loss import chunked_loss

    x_BTD = network.base_model(input_ids=ids_BT1[:, :-1], use_cache=False).last_hidden_state
    head_VD = network.get_output_embeddings().weight
    total, losses_N = chunked_loss(x_BTD.flatten(0, 1), head_VD, ids_BT1[:, 1:].flatten())
    num_tokens = ids_BT1.shape[1] - 1
    return total / num_tokens, losses_N.view(-1, num_tokens).mean(dim=1)
