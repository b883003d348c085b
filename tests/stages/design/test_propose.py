"""Proposals of `proxy`: legal, new each time, repeatable, and trained once a rung."""

from collections import Counter

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.model.cost import count_params
from pocketlm.model.shape import Shape
from pocketlm.stages.design import Budget, Designed, Means, design, rank_shapes
from pocketlm.stages.design.propose import PROXY_SAMPLERS, check_sampler
from pocketlm.stages.design.space import legal_shapes

BUDGET = Budget(max_params=1_000_000)
SPACE = {"vocab_size": 500, "family": "llama", "parent_shape": None}


class Trained:
    """Stands in for a training; the best shape is 6 layers with a ratio of 3, untied."""

    def __init__(self) -> None:
        self.calls: list[tuple[Shape, float, int]] = []

    def __call__(self, shape: Shape, share: float, seed: int) -> float:
        self.calls.append((shape, share, seed))
        off = abs(np.log(shape.layers / 6)) + abs(np.log(shape.ffn / shape.hidden / 3))
        return float(2 + off + 0.5 * shape.tied + 1e-4 * seed)


def searched(sampler: str, seed: int) -> tuple[Designed, Trained]:
    train = Trained()
    means = Means(budget=BUDGET, rng=np.random.default_rng(seed), train=train,
                  proxy_sampler=sampler)  # fmt: skip
    return rank_shapes(BUDGET, rank="proxy", means=means, **SPACE), train  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", PROXY_SAMPLERS)
def test_eight_legal_shapes_that_spend_the_budget_are_each_trained_once_a_rung(
    sampler: str,
) -> None:
    if sampler != "depths":
        pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    found, train = searched(sampler, 0)
    shapes = {each.shape for each in found.short_list}
    assert len(shapes) == 8
    assert shapes <= set(legal_shapes(BUDGET, **SPACE).shapes)  # type: ignore[arg-type]
    assert all(count_params(shape) > 0.85 * BUDGET.max_params for shape in shapes)
    assert set(Counter(train.calls).values()) == {1}
    assert sum(share == 0.25 for _, share, _ in train.calls) == 16
    assert found.shape == min(found.short_list, key=lambda each: each.value).shape
    assert searched(sampler, 0)[0] == found


def test_a_sampler_begins_with_deep_first_and_leaves_the_line_of_depths() -> None:
    pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    best = {sampler: searched(sampler, 1)[0].short_list[0] for sampler in PROXY_SAMPLERS}
    found, train = searched("tpe", 1)
    liked = design(BUDGET, **SPACE)  # type: ignore[arg-type]
    assert train.calls[0][0] == liked
    assert {each.shape.tied for each in found.short_list} == {True, False}
    # Every depth of `depths` is tied and as wide as deep-first likes it; here neither is best.
    assert best["tpe"].value < best["depths"].value
    assert searched("tpe", 1)[1].calls != searched("tpe", 2)[1].calls


def test_a_missing_optuna_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.stages.design.propose.find_spec", lambda name: None)
    check_sampler("depths")
    for sampler in ("tpe", "random"):
        message = f"proxy_sampler = '{sampler}' needs optuna: pip install 'pocketlm.optuna.'"
        with pytest.raises(RecipeError, match=message):
            check_sampler(sampler)
    with pytest.raises(RecipeError, match="needs optuna"):
        searched("tpe", 0)
