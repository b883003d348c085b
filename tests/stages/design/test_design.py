"""Shapes under a budget: legal, inside it, inside the parent, and explained when there is none."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import BudgetError, ParentError, RecipeError
from pocketlm.model.cost import count_params, params_by_part
from pocketlm.model.shape import Shape
from pocketlm.stages.design import RANKERS, Budget, SpeedModel, check_shape, design
from pocketlm.stages.design.budget import limits as limits_of
from pocketlm.stages.design.space import legal_shapes

STORIES = Shape(
    family="llama",
    vocab_size=2048,
    layers=2,
    hidden=128,
    heads=8,
    kv_heads=4,
    head_dim=16,
    ffn=384,
    tied=True,
)
LLAMA_7B = Shape(
    family="llama",
    vocab_size=32_000,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=32,
    head_dim=128,
    ffn=11_008,
    tied=False,
)
GROUPED = replace(LLAMA_7B, layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64, ffn=8192)


@settings(max_examples=60, deadline=None)
@given(
    max_params=st.integers(100_000, 3_000_000_000),
    vocab_size=st.integers(257, 32_000),
    parent=st.sampled_from([STORIES, LLAMA_7B, GROUPED]),
    rank=st.sampled_from(["deep-first", "wide-first"]),
)
def test_inside_budget_and_parent(
    max_params: int, vocab_size: int, parent: Shape, rank: str
) -> None:
    parent = replace(parent, vocab_size=max(vocab_size, parent.vocab_size))
    try:
        shape = design(
            Budget(max_params=max_params),
            vocab_size=vocab_size,
            family="llama",
            parent_shape=parent,
            rank=rank,
        )
    except BudgetError:
        return
    assert count_params(shape) <= max_params
    assert shape.vocab_size == vocab_size
    check_shape(shape, parent)


@pytest.mark.parametrize("parent", [STORIES, LLAMA_7B, GROUPED])
def test_a_budget_for_all_of_the_parent_gives_the_parent(parent: Shape) -> None:
    budget = Budget(max_params=count_params(parent))
    for rank in RANKERS:
        assert parent == design(
            budget,
            vocab_size=parent.vocab_size,
            family="llama",
            parent_shape=parent,
            rank=rank,
        )


@pytest.mark.parametrize(
    ("max_params", "vocab_size"), [(2_000_000, 1024), (30_000_000, 8000), (10**9, 48_000)]
)
def test_deep_first_without_a_parent(max_params: int, vocab_size: int) -> None:
    budget = Budget(max_params=max_params)
    started = time.process_time()
    deep = design(budget, vocab_size=vocab_size, family="llama")
    assert time.process_time() - started < 2.0  # aim 1 s; the machine may be busy
    wide = design(budget, vocab_size=vocab_size, family="llama", rank="wide-first")
    parts = params_by_part(deep)
    assert 0.9 * max_params < count_params(deep) <= max_params
    assert (parts["embedding"] + parts["head"]) <= 0.2 * sum(parts.values())
    assert deep.hidden >= 32 * deep.layers
    assert 2 <= deep.ffn / deep.hidden <= 4
    assert deep.head_dim == (64 if deep.hidden >= 512 else 32)
    assert deep.tied
    assert deep.layers > wide.layers
    assert deep.hidden < wide.hidden


def test_the_paper_s_1b_is_about_as_deep_as_its_deepest() -> None:
    shape = design(Budget(max_params=930_000_000), vocab_size=48_000, family="llama")
    assert 36 <= shape.layers <= 46  # 40 x 1280 in the paper


def test_two_layers_of_96_from_the_stories() -> None:
    shape = design(
        Budget(max_params=400_000), vocab_size=2048, family="llama", parent_shape=STORIES
    )
    assert shape == replace(STORIES, hidden=96, heads=6, kv_heads=3, ffn=256)


@settings(max_examples=20, deadline=None)
@given(st.integers(100_000, 100_000_000), st.sampled_from([None, LLAMA_7B]))
def test_the_ffn_takes_what_is_left(max_params: int, parent: Shape | None) -> None:
    budget = Budget(max_params=max_params)
    try:
        shapes = legal_shapes(budget, vocab_size=257, family="llama", parent_shape=parent).shapes
    except BudgetError:
        return
    for shape in shapes:
        widest = parent.ffn if parent else 4 * shape.hidden
        assert shape.ffn % (64 if shape.ffn >= 512 else 8) == 0 or shape.ffn == widest
        if shape.ffn < widest:
            step = 64 if shape.ffn >= 512 - 8 else 8
            assert count_params(replace(shape, ffn=shape.ffn + step)) > max_params


def test_no_shape_is_explained_by_a_vocabulary_that_fits() -> None:
    budget = Budget(max_params=900_000)
    parent = replace(LLAMA_7B, tied=True)
    with pytest.raises(BudgetError, match=r"of which the vocabulary alone 4\.1M; ") as caught:
        design(budget, vocab_size=32_000, family="llama", parent_shape=parent)
    fitting = int(str(caught.value).split("at most ")[1].split(" ")[0].replace(",", ""))
    assert design(budget, vocab_size=fitting, family="llama", parent_shape=parent).layers == 1
    with pytest.raises(BudgetError):
        design(budget, vocab_size=fitting + 1, family="llama", parent_shape=parent)
    with pytest.raises(BudgetError, match=r"alone \d+; raise max_params") as caught:
        design(Budget(max_params=3), vocab_size=2, family="llama")
    assert "compact" not in str(caught.value)


def test_names_are_checked() -> None:
    budget = Budget(max_params=10**7)
    with pytest.raises(RecipeError, match=r"\[design\] rank = 'deep'.*did you mean 'deep-first'"):
        design(budget, vocab_size=500, family="llama", rank="deep")
    with pytest.raises(ParentError, match="'opt': no such family"):
        design(budget, vocab_size=500, family="opt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 3}, "heads = 8 is not a multiple of kv_heads = 3"),
        ({"hidden": 100}, "hidden = 100 is not a multiple of heads = 8"),
        ({"hidden": 136}, "hidden = 136: the parent has 128"),
        ({"layers": 0}, "layers = 0: it must be at least 1"),
        ({"ffn": 385}, "ffn = 385: the parent has 384"),
        ({"head_dim": 32}, "head_dim = 32: the parent's is 16"),
        ({"kv_heads": 2}, "is 4 per group; the parent has 2"),
        ({"family": "qwen2"}, "a qwen2 child cannot be cut out of a llama parent"),
        ({"vocab_size": 4096}, "vocab_size = 4096: the parent has 2048"),
    ],
)
def test_explicit_shapes_are_checked(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_shape(replace(STORIES, **changes), STORIES)  # type: ignore[arg-type]


def test_only_depth_may_grow() -> None:
    check_shape(replace(STORIES, layers=7), STORIES)


def test_only_a_tied_parent_has_tied_children() -> None:
    with pytest.raises(RecipeError, match="set tied = false"):
        check_shape(STORIES, replace(STORIES, tied=False))
    check_shape(replace(STORIES, tied=False), STORIES)


TIMED = {
    "speed": SpeedModel(runtime="roofline", weight_format="q8_0", token_s=0.0, token_layer_s=1e-5,
                        byte_s=1e-10, prompt_s=0.0, prompt_layer_s=0.0, flop_s=1e-11),
    "min_tokens_per_s": 2000,
}  # fmt: skip


@pytest.mark.parametrize(
    "limits", [{"max_params": 3_000_000}, {"max_bytes": 1_000_000}, TIMED], ids=lambda d: min(d)
)
@pytest.mark.parametrize("rank", ["deep-first", "wide-first", "roofline"])
def test_at_equal_budget_tied_is_liked_better_and_untied_can_be_asked_for(
    limits: dict, rank: str
) -> None:
    budget = Budget(context=64, **{"speed": TIMED["speed"], **limits})
    either, tied, untied = (
        design(budget, vocab_size=2000, family="llama", rank=rank, tied=tied)
        for tied in (None, True, False)
    )
    assert either == tied
    assert tied.tied
    assert not untied.tied
    assert all(limit.keeps(untied) for limit in limits_of(budget))
    assert params_by_part(untied)["head"] == 2000 * untied.hidden


def test_the_space_holds_both_heads_and_every_untied_shape_is_paid_for() -> None:
    budget = Budget(max_params=3_000_000)
    spaces = {
        tied: legal_shapes(budget, vocab_size=2000, family="llama", parent_shape=None, tied=tied)
        for tied in (None, True, False)
    }
    both = set(spaces[None].shapes)
    assert both == set(spaces[True].shapes) | set(spaces[False].shapes)
    assert all(not s.tied and count_params(s) <= 3_000_000 for s in spaces[False].shapes)
    assert 100 < len(spaces[False].shapes) < len(spaces[True].shapes)
    ffn_of = {replace(s, ffn=1): s.ffn for s in spaces[True].shapes}
    twins = [(s.ffn, ffn_of[replace(s, ffn=1, tied=True)]) for s in spaces[False].shapes]
    assert all(own <= tied for own, tied in twins)  # the second table is paid for by the FFN
    assert sum(own < tied for own, tied in twins) > 100


def test_a_tied_parent_has_untied_children_where_asked_and_never_the_other_way() -> None:
    budget = Budget(max_params=400_000)
    own = design(budget, vocab_size=1024, family="llama", parent_shape=STORIES)
    untied = design(budget, vocab_size=1024, family="llama", parent_shape=STORIES, tied=False)
    assert (own.tied, untied.tied) == (True, False)
    check_shape(untied, STORIES)
    with pytest.raises(RecipeError, match=r"tied = true: the parent's head .* set tied = false"):
        design(budget, vocab_size=1024, family="llama", parent_shape=replace(STORIES, tied=False),
               tied=True)  # fmt: skip
