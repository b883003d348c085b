"""What a shape costs: parameters, arithmetic per token, KV cache per token. Exact, from the family.

Conventions. One multiply-add is 2 FLOPs. Only matrix products count: every weight matrix once per
token, the head included even where it is tied, the embedding lookup not; attention adds q.k and
p.v over `context` positions. Training is 3 x forward (backward does each product twice).
"""

from dataclasses import replace
from math import prod

from pocketlm.model.family import Part, tensors_of
from pocketlm.model.shape import Shape


def params_by_part(shape: Shape) -> dict[Part, int]:
    """Stored parameters of each part; a tied head has none of its own.

    `shortcut` is a key only where there is one.
    """
    counts: dict[Part, int] = {"embedding": 0, "attention": 0, "ffn": 0, "norms": 0, "head": 0}
    for placed in tensors_of(replace(shape, layers=1)):
        copies = shape.layers if placed.row.per_layer else 1
        counts[placed.row.part] = counts.get(placed.row.part, 0) + copies * prod(placed.dims)
    return counts


def count_params(shape: Shape) -> int:
    """Stored parameters: what `max_params` bounds; a tied table counts once."""
    return sum(params_by_part(shape).values())


def flops_per_token(shape: Shape, context: float) -> float:
    """Forward FLOPs per token where a token attends to `context` positions on average.

    Causal training on blocks of T tokens has context (T + 1) / 2; kernels that compute the masked
    half too do as much work as context T.
    """
    weights = shape.vocab_size * shape.hidden  # the head, stored or tied
    for placed in tensors_of(replace(shape, layers=1)):
        if placed.row.per_layer and len(placed.dims) == 2:
            weights += shape.layers * prod(placed.dims)
    attention = 2 * context * shape.heads * shape.head_dim * shape.layers
    return 2.0 * (weights + attention)


def kv_bytes_per_token(shape: Shape, bytes_per_value: int = 2) -> int:
    """Bytes the cache grows by with each token: keys and values of every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_value
