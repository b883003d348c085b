"""Cross-entropy of a head without ever holding all logits: chunks of tokens, gradients at once.

    z = W x      loss = logsumexp(z) - z_target      dx = W^T (softmax(z) - 1_target)
                                                     dW = sum (softmax(z) - 1_target) x^T

For a sum of losses the gradient of each is known as soon as its logits are, so the forward pass
makes dx and dW chunk by chunk and throws the logits away; the backward pass only scales them. The
peak falls by two float32 tables of tokens x vocabulary, at the price of dW held from forward to
backward.
Shapes: N tokens, C of them in a chunk, D hidden, V vocabulary.
"""

from typing import Any

import torch

CHUNK_TOKENS = 1024


class ChunkedLoss(torch.autograd.Function):
    """(x [N, D], W [V, D], targets [N], dtype) -> sum of the losses, and each loss [N] without
    gradient. Matrix products are made in `dtype`; losses and dW are float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        target_N: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and, where somebody will ask, gradients of their sum."""
        losses, dx_ND, dweight_VD = [], torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        narrow_VD = weight_VD.to(dtype)
        for first in range(0, x_ND.shape[0], CHUNK_TOKENS):
            chunk = slice(first, first + CHUNK_TOKENS)
            x_CD, target_C1 = x_ND[chunk].to(dtype), target_N[chunk, None]
            logits_CV = (x_CD @ narrow_VD.T).float()
            peak_C1 = torch.logsumexp(logits_CV, dim=1, keepdim=True)
            losses.append((peak_C1 - logits_CV.gather(1, target_C1)).squeeze(1))
            if any(ctx.needs_input_grad):
                slope_CV = logits_CV.sub_(peak_C1).exp_()  # softmax, in the logits' own memory
                slope_CV.scatter_add_(1, target_C1, -torch.ones_like(peak_C1))
                slope_CV = slope_CV.to(dtype)
                dx_ND[chunk] = slope_CV @ narrow_VD
                dweight_VD += slope_CV.T @ x_CD
        losses_N = torch.cat(losses)
        ctx.save_for_backward(dx_ND, dweight_VD)
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """Scale what the forward pass made."""
        dx_ND, dweight_VD = ctx.saved_tensors
        return dx_ND * upstream[0].to(dx_ND.dtype), dweight_VD * upstream[0], None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a loop not worth tracing
def chunked_loss(
    x_ND: torch.Tensor, weight_VD: torch.Tensor, target_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses, to call backward on, and each loss [N]; under autocast in its dtype."""
    device = x_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
    with torch.autocast(device, enabled=False):
        apply: Any = ChunkedLoss.apply  # torch has no types here
        total, losses_N = apply(x_ND, weight_VD, target_N, dtype)
    return total, losses_N
