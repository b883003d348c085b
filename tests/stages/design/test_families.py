"""Every family's space: shapes that it can have, inside the budget, counted exactly."""

from dataclasses import replace

import pytest

from pocketlm.model.cost import count_params
from pocketlm.model.family import family_names, load_family
from pocketlm.model.shape import Shape, check_shape
from pocketlm.stages.design import Budget
from pocketlm.stages.design.space import legal_shapes


@pytest.mark.parametrize("family", [n for n in family_names() if not load_family(n).auto_map])
@pytest.mark.parametrize("with_parent", [True, False])
def test_every_legal_shape_can_be_built(family: str, with_parent: bool) -> None:
    grouped = bool(load_family(family).keys.kv_heads)
    parent = Shape(
        family=family,
        vocab_size=500,
        layers=6,
        hidden=512,
        heads=8,
        kv_heads=2 if grouped else 8,
        head_dim=64,
        ffn=1024,
        tied=False,
        flipped=tuple(load_family(family).switches),
    )
    parent_shape = parent if with_parent else None
    budget = Budget(max_params=2_000_000, max_bytes=4_000_000, context=64)
    space = legal_shapes(budget, vocab_size=400, family=family, parent_shape=parent_shape)
    shapes = space.shapes
    assert len(shapes) > 5
    for shape in shapes:
        check_shape(shape, parent_shape)
        assert count_params(shape) <= budget.max_params
    widest = max(shapes, key=lambda shape: shape.hidden)
    if with_parent:  # switches add parameters, and are the parent's
        assert widest.flipped == parent.flipped
        if family in ("llama", "smollm3"):
            assert count_params(widest) > count_params(replace(widest, flipped=()))
