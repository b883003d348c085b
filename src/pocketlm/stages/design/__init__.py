"""Stage 2, design: the best shape for the budget (paper, architecture tweak)."""

from pocketlm.method import pick
from pocketlm.model.shape import Shape, check_shape
from pocketlm.stages.design.rank import RANKERS
from pocketlm.stages.design.space import Budget, legal_shapes

__all__ = ["RANKERS", "Budget", "check_shape", "design"]


def design(
    budget: Budget,
    *,
    vocab_size: int,
    family: str,
    parent_shape: Shape | None = None,
    rank: str = "deep-first",
) -> Shape:
    """List the shapes the budget allows, within the parent if there is one, and take the best.

    `rank` is a name of RANKERS. Raises `BudgetError` if nothing fits, `RecipeError` for an unknown
    ranker, `ParentError` for an unknown family.
    """
    order = pick(RANKERS, rank, "[design] rank")
    shapes = legal_shapes(budget, vocab_size=vocab_size, family=family, parent_shape=parent_shape)
    return order(shapes)[0]
