"""Stage 2, design: the best shape for the budget (paper, architecture tweak)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pocketlm.method import pick
from pocketlm.model.shape import Shape, check_shape
from pocketlm.stages.design.budget import Budget
from pocketlm.stages.design.latency import SpeedModel, fit_here, roofline
from pocketlm.stages.design.rank import RANKERS
from pocketlm.stages.design.ranked import SHORT_LIST, Means, Ranked, ranked
from pocketlm.stages.design.space import legal_shapes
from pocketlm.stages.design.timed import TRANSFORMERS, Runtime

__all__ = [
    "RANKERS",
    "TRANSFORMERS",
    "Budget",
    "Designed",
    "Means",
    "Ranked",
    "Runtime",
    "SpeedModel",
    "check_shape",
    "design",
    "fit_here",
    "rank_shapes",
    "roofline",
]


@dataclass(frozen=True, kw_only=True)
class Designed:
    """The chosen shape, and what it was chosen from."""

    shape: Shape
    short_list: tuple[Ranked, ...]
    """The first of the ranking, the chosen one at its head."""
    frontier: tuple[Ranked, ...]
    """The best-ranked shape of every depth, shallow to deep."""
    num_legal: int
    excluded: tuple[str, ...]
    """Why other shapes were not candidates, one line a reason."""


def design(
    budget: Budget,
    *,
    vocab_size: int,
    family: str,
    parent_shape: Shape | None = None,
    tied: bool | None = None,
    rank: str = "deep-first",
    rng: np.random.Generator | None = None,
) -> Shape:
    """List the shapes the budget allows, within the parent if there is one, and take the best.

    `tied`: one matrix for embedding and head; not given, the parent's, else as the ranker likes.
    `rank` is a name of RANKERS; `rng` draws the prompts of `measured`. Raises `BudgetError` if
    nothing fits, `RecipeError` for an unknown ranker or one that needs more than a budget,
    `ParentError` for an unknown family.
    """
    return rank_shapes(
        budget, vocab_size=vocab_size, family=family, parent_shape=parent_shape, tied=tied,
        rank=rank, means=Means(budget=budget, rng=rng or np.random.default_rng(0)),
    ).shape  # fmt: skip


def rank_shapes(
    budget: Budget,
    *,
    vocab_size: int,
    family: str,
    parent_shape: Shape | None,
    tied: bool | None = None,
    rank: str,
    means: Means,
) -> Designed:
    """As `design`, with the short-list, the frontier and the reasons."""
    order_by: Callable[..., list[Ranked]] = pick(RANKERS, rank, "[design] rank")
    space = legal_shapes(
        budget, vocab_size=vocab_size, family=family, parent_shape=parent_shape, tied=tied
    )
    if len(space.shapes) == 1:
        order = [ranked(space.shapes[0], 1.0, "the only shape", "")]
    else:
        order = order_by(space.shapes, means)
    best_of_depth: dict[int, Ranked] = {}
    for each in order:
        best_of_depth.setdefault(each.shape.layers, each)
    return Designed(
        shape=order[0].shape,
        short_list=tuple(order[:SHORT_LIST]),
        frontier=tuple(best_of_depth[layers] for layers in sorted(best_of_depth)),
        num_legal=len(space.shapes),
        excluded=space.excluded,
    )
