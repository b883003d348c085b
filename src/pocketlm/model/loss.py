"""The loss of a language model, one number a block.

Shapes: B blocks, T tokens, V vocabulary, D hidden.
"""

from typing import TYPE_CHECKING

from pocketlm.errors import StageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


_MASKING = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
"""Attention that transformers gives a mask, or ends of documents, made from the places."""


def block_losses(
    network: "PreTrainedModel",
    ids_BT1: "torch.Tensor",
    place_BT: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Mean cross-entropy of each block, nats per token, float32, shape (B,).

    `ids_BT1` holds T + 1 ids a block: inputs and, shifted by one, targets. The mean of the result
    is the usual training loss, since all blocks are equally long. With `place_BT`, the place of
    each input in its document, no token sees another document. Raises `StageError` where the
    network's attention would not keep to that.
    """
    return losses_of(block_logits(network, ids_BT1, place_BT), ids_BT1)


def block_logits(
    network: "PreTrainedModel", ids_BT1: "torch.Tensor", place_BT: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """What follows each input, float32, shape (B, T, V); arguments as in `block_losses`."""
    _check_mask(network, place_BT)
    # transformers makes the mask from places that begin anew (`find_packed_sequence_indices`).
    out = network(input_ids=ids_BT1[:, :-1], position_ids=place_BT, use_cache=False)
    logits_BTV: torch.Tensor = out.logits.float()
    return logits_BTV


def losses_of(logits_BTV: "torch.Tensor", ids_BT1: "torch.Tensor") -> "torch.Tensor":
    """Mean cross-entropy of each block, nats per token, shape (B,)."""
    from torch.nn.functional import cross_entropy

    losses_BT = cross_entropy(logits_BTV.flatten(0, 1), ids_BT1[:, 1:].flatten(), reduction="none")
    return losses_BT.view(ids_BT1.shape[0], -1).mean(dim=1)


def summed_loss(
    network: "PreTrainedModel",
    ids_BT1: "torch.Tensor",
    place_BT: "torch.Tensor | None" = None,
    *,
    chunked: bool,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Sum of `block_losses`, to call backward on, and the losses (B,) without a gradient.

    `chunked` makes logits and gradients of the head a chunk of tokens at a time: less memory, the
    same numbers but for rounding.
    """
    if not chunked:
        losses_B = block_losses(network, ids_BT1, place_BT)
        return losses_B.sum(), losses_B.detach()
    from pocketlm.model.chunked_loss import chunked_loss

    _check_mask(network, place_BT)
    body = network.base_model(input_ids=ids_BT1[:, :-1], position_ids=place_BT, use_cache=False)
    x_BTD = body.last_hidden_state
    head_VD = network.get_output_embeddings().weight
    total, losses_N = chunked_loss(x_BTD.flatten(0, 1), head_VD, ids_BT1[:, 1:].flatten())
    num_tokens = ids_BT1.shape[1] - 1
    return total / num_tokens, losses_N.view(-1, num_tokens).mean(dim=1)


def _check_mask(network: "PreTrainedModel", place_BT: "torch.Tensor | None") -> None:
    attention = network.config._attn_implementation
    if place_BT is not None and attention not in _MASKING:
        raise StageError(
            f"[train] document_mask: attention {attention!r} takes no mask; choose sdpa or eager"
        )
