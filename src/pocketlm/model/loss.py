"""The loss of a language model, one number a block.

Shapes: B blocks, T tokens, V vocabulary.
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
