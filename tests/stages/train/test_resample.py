"""Resamplers: what stands for the loss, and what of it each asks for."""

from typing import Any

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.resample import (
    RESAMPLERS,
    Evidence,
    carries_losses,
    check_parent_losses,
    scores_blocks,
)
from pocketlm.tables import build_table


def evidence(asked: list[str]) -> Evidence:
    def give(name: str, value: float) -> Any:
        def losses() -> Any:
            asked.append(name)
            return np.full(3, value)

        return losses

    return Evidence(now=give("now", 5), when_trained=give("then", 3), parent=give("parent", 1))


@pytest.mark.parametrize(
    ("name", "score", "asks"),
    [
        ("softmax-loss", 5, ["now"]),
        ("uniform", None, []),
        ("excess-loss", 4, ["now", "parent"]),
        ("forgetting", 2, ["now", "then"]),
    ],
)
def test_each_asks_for_what_it_needs(name: str, score: float | None, asks: list[str]) -> None:
    asked: list[str] = []
    found = RESAMPLERS[name].function(evidence(asked))
    assert asked == asks
    assert (found is None) if score is None else (found == score).all()


@pytest.mark.parametrize(
    ("settings", "scores", "carries"),
    [
        ({}, True, False),
        ({"rounds": 1}, False, False),
        ({"keep_fraction": 1.0}, False, False),
        ({"resample": "uniform"}, False, False),
        ({"resample": "uniform", "losses": "recorded"}, False, False),
        ({"losses": "recorded"}, False, True),
        ({"resample": "forgetting"}, True, True),
        ({"resample": "excess-loss", "losses": "recorded"}, False, True),
    ],
)
def test_what_a_recipe_pays_for(settings: dict[str, Any], scores: bool, carries: bool) -> None:
    table = TrainTable(**settings)
    assert (scores_blocks(table), carries_losses(table)) == (scores, carries)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing is left; take frozen"):
        build_table(TrainTable, {"resample": "forgetting", "losses": "recorded"}, "[train]")
    excess = TrainTable(resample="excess-loss")
    with pytest.raises(RecipeError, match="compares with a parent and there is none"):
        check_parent_losses(excess, has_parent=False)
    check_parent_losses(excess, has_parent=True)
    check_parent_losses(TrainTable(resample="excess-loss", rounds=1), has_parent=False)
