"""All shapes worth ranking: inside the budget, and within reach of the parent if there is one.

Widths come in whole heads. The FFN is not enumerated: each (layers, heads) gets the widest FFN
that the budget still pays for, so the space has hundreds of shapes, not millions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pocketlm.errors import BudgetError
from pocketlm.model.cost import count_params
from pocketlm.model.shape import Shape
from pocketlm.units import show_count

_MAX_LAYERS, _MAX_HIDDEN = 64, 8192  # without a parent
_MAX_FFN_RATIO = 4  # the paper's widest expansion; without a parent


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the device grants."""

    max_params: int
    """Parameters at most, a tied table counted once."""


def legal_shapes(
    budget: Budget, *, vocab_size: int, family: str, parent_shape: Shape | None
) -> list[Shape]:
    """Every candidate; raises `BudgetError` that says what is too large if there is none.

    With a parent: its head_dim, its hidden per head, and no axis above its own. Without: tied,
    one K/V head per head (as the paper's models), heads of 64, of 32 where hidden is below 512.
    Where the whole parent fits there is nothing to cut: it is the only shape.
    """
    if parent_shape and count_params(parent_shape.with_vocab(vocab_size)) <= budget.max_params:
        return [parent_shape.with_vocab(vocab_size)]
    ceiling = parent_shape or _open_ceiling(family)
    bodies = [body.with_vocab(vocab_size) for body in _bodies(ceiling, parent_shape is not None)]
    layer_counts = range(1 if parent_shape else 2, ceiling.layers + 1)
    shapes = []
    for body in bodies:
        max_ffn = ceiling.ffn if parent_shape else _MAX_FFN_RATIO * body.hidden
        for layers in layer_counts:
            shape = _fill(replace(body, layers=layers), budget, max_ffn)
            if shape is None:  # more layers only cost more
                break
            shapes.append(shape)
    if not shapes:
        raise BudgetError(_explain(replace(bodies[0], layers=layer_counts[0], ffn=8), budget))
    return shapes


def _open_ceiling(family: str) -> Shape:
    return Shape(
        family=family,
        vocab_size=1,
        layers=_MAX_LAYERS,
        hidden=_MAX_HIDDEN,
        heads=_MAX_HIDDEN // 64,
        kv_heads=_MAX_HIDDEN // 64,
        head_dim=64,
        ffn=_MAX_FFN_RATIO * _MAX_HIDDEN,
        tied=True,
    )


def _bodies(ceiling: Shape, has_parent: bool) -> Iterator[Shape]:
    """One body per number of heads, narrowest first; layers and FFN still to be set."""
    if not has_parent:
        for hidden in range(32, 512, 32):
            heads = hidden // 32
            yield replace(ceiling, hidden=hidden, heads=heads, kv_heads=heads, head_dim=32)
        for hidden in range(512, ceiling.hidden + 1, 64):
            yield replace(ceiling, hidden=hidden, heads=hidden // 64, kv_heads=hidden // 64)
        return
    hidden_per_head = ceiling.hidden // ceiling.heads
    group = ceiling.heads // ceiling.kv_heads
    for heads in range(1, ceiling.heads + 1):
        hidden = heads * hidden_per_head
        kv_heads = _fewest_kv_heads(heads, group)
        whole = hidden % 8 == 0 or heads == ceiling.heads
        if whole and kv_heads <= ceiling.kv_heads:
            yield replace(ceiling, hidden=hidden, heads=heads, kv_heads=kv_heads)


def _fewest_kv_heads(heads: int, max_group: int) -> int:
    return next(kv for kv in range(1, heads + 1) if heads % kv == 0 and heads // kv <= max_group)


def _fill(shape: Shape, budget: Budget, max_ffn: int) -> Shape | None:
    """`shape` with the widest FFN the budget pays for, None if not even 8 fit.

    Widths are multiples of 8, from 512 on of 64, or exactly `max_ffn`.
    """
    bare = count_params(replace(shape, ffn=0))
    per_neuron = count_params(replace(shape, ffn=1)) - bare
    affordable = (budget.max_params - bare) // per_neuron
    if affordable >= max_ffn:
        return replace(shape, ffn=max_ffn)
    ffn = affordable // 64 * 64 if affordable >= 512 else affordable // 8 * 8
    return replace(shape, ffn=ffn) if ffn >= 8 else None


def _explain(smallest: Shape, budget: Budget) -> str:
    """Why not even the smallest shape fits, and the vocabulary at which it would."""
    total, body = count_params(smallest), count_params(smallest.with_vocab(0))
    per_token = (total - body) // smallest.vocab_size
    fitting = (budget.max_params - body) // per_token
    way_out = f"compact to at most {fitting} tokens or " if fitting > 0 else ""
    return (
        f"no shape fits max_params = {show_count(budget.max_params)}: the smallest, "
        f"{smallest.layers} x {smallest.hidden}, takes {show_count(total)}, of which the "
        f"vocabulary alone {show_count(total - body)}; {way_out}raise max_params"
    )
