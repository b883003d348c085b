"""Every limit at its edge, alone and together, and explained where nothing fits."""

from dataclasses import replace

import pytest

from pocketlm.device import load_device
from pocketlm.errors import BudgetError, RecipeError
from pocketlm.model.cost import count_params, decode_bytes
from pocketlm.model.shape import Shape
from pocketlm.stages.design import Budget, design, roofline
from pocketlm.stages.design.budget import limits
from pocketlm.stages.design.latency import SpeedModel
from pocketlm.stages.design.space import legal_shapes

SPEED = SpeedModel(runtime="transformers", weight_format="f32", token_s=1e-4, token_layer_s=1e-4,
                   output_s=2e-8, byte_s=1e-9, prompt_s=0.0, prompt_layer_s=2e-4,
                   flop_s=1e-11)  # fmt: skip
CONTEXT = 256
LIMITS = {
    "max_params": (lambda shape: count_params(shape), {}),
    "max_bytes": (lambda shape: decode_bytes(shape, "q8_0", CONTEXT), {}),
    "min_tokens_per_s": (lambda shape: SPEED.tokens_per_s(shape, CONTEXT), {"speed": SPEED}),
    "max_first_token_ms": (
        lambda shape: 1000 * SPEED.prompt_seconds(shape, CONTEXT),
        {"speed": SPEED},
    ),
}
SHAPE = Shape(family="llama", vocab_size=1000, layers=6, hidden=192, heads=6, kv_heads=6,
              head_dim=32, ffn=512, tied=True)  # fmt: skip


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_holds_at_its_edge_and_not_beyond(key: str) -> None:
    cost, more = LIMITS[key]
    edge = cost(SHAPE)
    slack = 1 if isinstance(edge, int) else edge * 1e-6
    inside, outside = (edge - slack, edge + slack) if key.startswith("min") else (
        edge + slack, edge - slack)  # fmt: skip
    (kept,) = limits(Budget(context=CONTEXT, **{key: inside}, **more))
    (broken,) = limits(Budget(context=CONTEXT, **{key: outside}, **more))
    assert kept.keeps(SHAPE)
    assert not broken.keeps(SHAPE)
    assert broken.key.startswith(f"{key} = ")


@pytest.mark.parametrize("keys", [[key] for key in LIMITS] + [list(LIMITS)])
def test_every_shape_is_inside_and_could_not_be_wider(keys: list[str]) -> None:
    given = {key: LIMITS[key][0](SHAPE) for key in keys}
    budget = Budget(context=CONTEXT, speed=SPEED, **given)
    shapes = legal_shapes(budget, vocab_size=1000, family="llama", parent_shape=None).shapes
    assert len(shapes) > 20
    for shape in shapes[:: len(shapes) // 20]:
        assert all(limit.keeps(shape) for limit in limits(budget))
        if shape.ffn < 4 * shape.hidden:
            least = 32 if "max_bytes" in keys else 8  # blocks of q8_0
            step = 64 if shape.ffn >= 512 - least else least
            wider = replace(shape, ffn=shape.ffn + step)
            assert not all(limit.keeps(wider) for limit in limits(budget))


def test_a_tighter_budget_has_no_new_shapes_of_a_depth() -> None:
    deepest = [
        max(s.layers for s in legal_shapes(Budget(max_bytes=size, context=CONTEXT),
            vocab_size=1000, family="llama", parent_shape=None).shapes)
        for size in (1_000_000, 2_000_000, 4_000_000)
    ]  # fmt: skip
    assert deepest == sorted(deepest)


def test_what_does_not_fit_is_explained_and_the_way_out_works() -> None:
    parent = replace(SHAPE, vocab_size=50_000, tied=False)
    budget = Budget(max_bytes=2_000_000, context=CONTEXT)
    with pytest.raises(BudgetError, match=r"max_bytes = 2 MB .*vocabulary alone .*compact") as no:
        design(budget, vocab_size=50_000, family="llama", parent_shape=parent)
    fitting = int(str(no.value).split("at most ")[1].split(" ")[0].replace(",", ""))
    design(budget, vocab_size=fitting, family="llama", parent_shape=parent)
    with pytest.raises(BudgetError):
        design(budget, vocab_size=fitting + 30, family="llama", parent_shape=parent)


def test_slowness_is_explained() -> None:
    budget = Budget(min_tokens_per_s=1e6, speed=SPEED, context=CONTEXT)
    with pytest.raises(BudgetError, match=r"transformers.*ms a token.*lower min_tokens_per_s"):
        design(budget, vocab_size=1000, family="llama")


def test_what_a_budget_lacks_is_said() -> None:
    with pytest.raises(RecipeError, match="sets no limit; give max_params"):
        design(Budget(), vocab_size=1000, family="llama")
    with pytest.raises(RecipeError, match="need a device"):
        design(Budget(min_tokens_per_s=10), vocab_size=1000, family="llama")


def test_grouped_keys_only_where_they_save_what_is_limited() -> None:
    def groups(budget: Budget) -> set[int]:
        shapes = legal_shapes(budget, vocab_size=1000, family="llama", parent_shape=None).shapes
        return {shape.heads // shape.kv_heads for shape in shapes}

    assert groups(Budget(max_params=5_000_000)) == {1}
    assert groups(Budget(max_bytes=5_000_000)) == {1, 2, 4}


def test_a_profile_bounds_speed_by_bandwidth() -> None:
    device = load_device("raspberry-pi-5")
    speed = roofline(device, "q8_0")
    smaller = replace(SHAPE, layers=3)
    assert speed.tokens_per_s(smaller, 0) > speed.tokens_per_s(SHAPE, 0)
    assert speed.tokens_per_s(SHAPE, 10_000) < speed.tokens_per_s(SHAPE, 0)


def test_exclusions_name_what_the_parent_lacks() -> None:
    space = legal_shapes(Budget(max_params=300_000), vocab_size=1000, family="llama",
                         parent_shape=SHAPE)  # fmt: skip
    said = " ".join(space.excluded)
    assert "the parent has no more to cut from" in said
    assert "rotary frequencies" in said
    assert "max_params = 300k" in said
