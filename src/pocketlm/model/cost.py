"""What a shape costs: parameters, arithmetic, bytes. Exact, from the family's own table of tensors.

Conventions. One multiply-add is 2 FLOPs. Only matrix products count: every weight matrix once per
token, the head included even where it is tied, the embedding lookup not; attention adds q.k and
p.v over `context` positions. Training is 3 x forward (backward does each product twice).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from pocketlm.errors import RecipeError, did_you_mean
from pocketlm.model.family import Part, Placed, tensors_of
from pocketlm.model.shape import Shape

_F32_BYTES = 4


@dataclass(frozen=True)
class WeightFormat:
    """How a file keeps numbers: matrices in blocks along a row, vectors apart."""

    block: int
    """Neighbours of a row that share a scale."""
    block_bytes: int
    """Bytes of such a block, its scale included."""
    other_bytes: int
    """Bytes of each number of a matrix whose rows do not divide into blocks."""
    vector_bytes: int = _F32_BYTES
    """Bytes of each number of norms and biases."""


WEIGHT_FORMATS = {
    "f32": WeightFormat(1, 4, 4),
    "bf16": WeightFormat(1, 2, 2, 2),
    "f16": WeightFormat(1, 2, 2),
    "q8_0": WeightFormat(32, 34, 2),
    "q5_0": WeightFormat(32, 22, 2),
    "q4_0": WeightFormat(32, 18, 2),
}
"""Weights as files keep them: `f32` and `bf16` in safetensors, the others in GGUF (llama.cpp,
ggml-common.h: 32 numbers of 8, 5 or 4 bits share a float16 scale; vectors stay float32)."""


def params_by_part(shape: Shape) -> dict[Part, int]:
    """Stored parameters of each part; a tied head has none of its own.

    `shortcut` is a key only where there is one.
    """
    counts: dict[Part, int] = {"embedding": 0, "attention": 0, "ffn": 0, "norms": 0, "head": 0}
    for placed, copies in _tensors(shape):
        counts[placed.row.part] = counts.get(placed.row.part, 0) + copies * prod(placed.dims)
    return counts


def count_params(shape: Shape) -> int:
    """Stored parameters: what `max_params` bounds; a tied table counts once."""
    return sum(params_by_part(shape).values())


def vocab_share(shape: Shape) -> float:
    """Share of embedding and head in all parameters, 0 to 1 (paper: below 0.2)."""
    parts = params_by_part(shape)
    return (parts["embedding"] + parts["head"]) / sum(parts.values())


def flops_per_token(shape: Shape, context: float) -> float:
    """Forward FLOPs per token where a token attends to `context` positions on average.

    Causal training on blocks of T tokens has context (T + 1) / 2; kernels that compute the masked
    half too do as much work as context T.
    """
    weights = shape.vocab_size * shape.hidden  # the head, stored or tied
    for placed, copies in _tensors(shape):
        if placed.row.per_layer and len(placed.dims) == 2:
            weights += copies * prod(placed.dims)
    attention = 2 * context * shape.heads * shape.head_dim * shape.layers
    return 2.0 * (weights + attention)


def training_flops_per_token(shape: Shape, seq_len: int) -> float:
    """FLOPs of a training step per token on causal blocks of `seq_len`: 3 x forward."""
    return 3 * flops_per_token(shape, (seq_len + 1) / 2)


def kv_bytes_per_token(shape: Shape, bytes_per_value: int = 2) -> int:
    """Bytes the cache grows by with each token: keys and values of every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_value


def weight_bytes(shape: Shape, weight_format: str = "f16") -> int:
    """Bytes of all stored weights in a format of WEIGHT_FORMATS, scales of blocks included.

    Raises `RecipeError` for an unknown format.
    """
    check_weight_format(weight_format)
    kind = WEIGHT_FORMATS[weight_format]
    return sum(copies * _tensor_bytes(placed.dims, kind) for placed, copies in _tensors(shape))


def check_weight_format(weight_format: str) -> None:
    """Raise `RecipeError` for a name that WEIGHT_FORMATS does not have."""
    if weight_format not in WEIGHT_FORMATS:
        raise RecipeError(
            f"[design] weight_format = {weight_format!r}: no such format; "
            f"{did_you_mean(weight_format, WEIGHT_FORMATS)}"
        )


def decode_read_bytes(shape: Shape, weight_format: str, context: int) -> int:
    """Bytes one new token reads: every weight but an untied embedding, whose one row is nothing,
    and the 16-bit cache of `context` positions. Raises `RecipeError` for an unknown format."""
    check_weight_format(weight_format)
    dims = (shape.vocab_size, shape.hidden)
    table = 0 if shape.tied else _tensor_bytes(dims, WEIGHT_FORMATS[weight_format])
    return weight_bytes(shape, weight_format) - table + context * kv_bytes_per_token(shape)


def layer_outputs(shape: Shape) -> int:
    """Numbers that the matrix products inside the layers make for one token: what is normed,
    rotated, activated or added after them. The head's are not among them."""
    return sum(
        copies * placed.dims[0]
        for placed, copies in _tensors(shape)
        if placed.row.per_layer and len(placed.dims) == 2
    )


def decode_bytes(shape: Shape, weight_format: str, context: int) -> int:
    """Peak memory of generating: weights, 16-bit cache of `context` positions, float32 logits.

    Other activations are a few rows of `hidden` and `ffn`, some kB; a runtime's own code and
    buffers come on top and are not the shape's doing.
    """
    cache = context * kv_bytes_per_token(shape)
    return weight_bytes(shape, weight_format) + cache + _F32_BYTES * shape.vocab_size


def activation_bytes(
    shape: Shape, num_tokens: int, *, recompute: bool = False, logits: bool = True
) -> int:
    """Bytes that autograd keeps from forward to backward for `num_tokens` tokens of a step.

    Counted in float32 values a token, fused attention: 6 hidden + 4 ffn + 2 q + 2 kv a layer, 3
    hidden and the `logits` at the end. With `recompute` a layer keeps its input, one hidden, and
    only the layer at hand keeps the rest. Bfloat16 autocast keeps casts beside the originals and
    comes to about as much.
    """
    heads = shape.heads + shape.kv_heads
    layer = 6 * shape.hidden + 4 * shape.ffn + 2 * heads * shape.head_dim
    layers = layer + shape.layers * shape.hidden if recompute else shape.layers * layer
    return _F32_BYTES * num_tokens * (layers + 3 * shape.hidden + logits * shape.vocab_size)


def attention_weight_bytes(shape: Shape, num_tokens: int, seq_len: int) -> int:
    """Bytes that unfused causal attention keeps besides: of the half square of every head, float32
    softmax and the same in bfloat16, of all layers."""
    return shape.layers * shape.heads * num_tokens * (seq_len // 2) * (_F32_BYTES + 2)


def training_bytes(
    shape: Shape, num_tokens: int, *, recompute: bool = False, logits: bool = True
) -> int:
    """Peak memory of training with AdamW: float32 weights, gradients and two moments, the kept
    activations of `num_tokens` tokens, and the gradient of their logits."""
    state = 4 * _F32_BYTES * count_params(shape)
    slopes = _F32_BYTES * num_tokens * shape.vocab_size if logits else 0
    kept = activation_bytes(shape, num_tokens, recompute=recompute, logits=logits)
    return state + kept + slopes


def _tensors(shape: Shape) -> Iterator[tuple[Placed, int]]:
    """Every tensor of one layer and outside the layers, and how many of it the model has."""
    for placed in tensors_of(replace(shape, layers=1)):
        yield placed, shape.layers if placed.row.per_layer else 1


def _tensor_bytes(dims: tuple[int, ...], kind: WeightFormat) -> int:
    if len(dims) == 1:
        return prod(dims) * kind.vector_bytes
    if dims[-1] % kind.block:
        return prod(dims) * kind.other_bytes
    return prod(dims) // kind.block * kind.block_bytes
