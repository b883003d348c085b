"""Causal attention in blocks of queries: plain matrix products that skip the upper triangle.

    out_i = softmax(s Q_i K_[a,e)^T) V_[a,e)      rows [b, e) of block i, a = 0 or where the window
                                                  of row b begins

A block of queries multiplies only the keys up to its last row, so of the square about half (1 +
1 / number of blocks) is computed. On processors this beats torch's fused kernel, whose backward is
far from the rate of its matrix products. Heads that share keys are stacked along the queries, so
keys and values are never repeated.
Shapes: B sequences, H heads, G key heads, R = H / G, T tokens, D head width, Q rows of a block, K
keys it sees.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

QUERY_BLOCKS = "query-blocks"
"""The name under which transformers knows it."""

_ROWS = 128
_MOST_BLOCKS = 8  # more make the products thin: 8 at T = 2048 were the best


def register_attention() -> None:
    """Make transformers know `query-blocks` in this process; again is harmless.

    No mask function is registered with it, so transformers builds no mask and would drop one of
    padding: it is for blocks of training, which have none.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(QUERY_BLOCKS, block_attention)


def block_attention(
    module: "torch.nn.Module",
    query_BHTD: "torch.Tensor",
    key_BGTD: "torch.Tensor",
    value_BGTD: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    **options: Any,
) -> tuple["torch.Tensor", None]:
    """Attention over whole sequences, as transformers calls it: (B, T, H, D) and no weights.

    `options`: scaling (default D^-0.5), sliding_window (keys a row sees, itself included), dropout.
    Raises `ValueError` for a mask, a cache or scores that are capped, none of which it knows.
    """
    import torch

    batch, _, num_tokens, width = query_BHTD.shape
    groups = key_BGTD.shape[1]
    if attention_mask is not None or key_BGTD.shape[2] != num_tokens or options.get("softcap"):
        raise ValueError(f"{QUERY_BLOCKS}: only whole sequences without padding; choose sdpa")
    scale = options.get("scaling") or width**-0.5
    window, dropout = options.get("sliding_window") or num_tokens, options.get("dropout") or 0.0
    query_BGRTD = query_BHTD.reshape(batch, groups, -1, num_tokens, width) * scale
    rows = max(_ROWS, -(-num_tokens // _MOST_BLOCKS))
    outs = []
    for begin in range(0, num_tokens, rows):
        end, first = min(begin + rows, num_tokens), max(0, begin + 1 - window)
        query_BGXD = query_BGRTD[:, :, :, begin:end].flatten(2, 3)  # X = R Q rows
        scores_BGXK = query_BGXD @ key_BGTD[:, :, first:end].transpose(2, 3)
        hidden_QK = _hidden(range(begin, end), range(first, end), window, scores_BGXK.device)
        scores_BGRQK = scores_BGXK.view(batch, groups, -1, end - begin, end - first)
        scores_BGRQK = scores_BGRQK.masked_fill_(
            hidden_QK, float("-inf")
        )  # in place: one copy less
        weights_BGRQK = torch.softmax(scores_BGRQK, dim=-1, dtype=torch.float32)
        weights_BGRQK = torch.dropout(weights_BGRQK.to(value_BGTD.dtype), dropout, dropout > 0)
        out_BGXD = weights_BGRQK.flatten(2, 3) @ value_BGTD[:, :, first:end]
        outs.append(out_BGXD.view(batch, groups, -1, end - begin, width))
    return torch.cat(outs, dim=3).flatten(1, 2).transpose(1, 2).contiguous(), None


def _hidden(queries: range, keys: range, window: int, device: "torch.device") -> "torch.Tensor":
    """True where a row may not look: keys after it, and those before its window."""
    import torch

    row_Q1 = torch.arange(queries.start, queries.stop, device=device)[:, None]
    key_K = torch.arange(keys.start, keys.stop, device=device)
    return (key_K > row_Q1) | (key_K <= row_Q1 - window)
