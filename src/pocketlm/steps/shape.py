"""The step that decides the child's shape, and what its size says about a vocabulary."""

from dataclasses import asdict
from pathlib import Path

from pocketlm.artifact import Score
from pocketlm.errors import BudgetError
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.cost import count_params, flops_per_token, kv_bytes_per_token, params_by_part
from pocketlm.model.shape import Shape
from pocketlm.recipe import Recipe
from pocketlm.stages.compact.size import Body, BodyOf
from pocketlm.steps.materials import Materials, Scores, write_json


def design_step(run: Materials, files: Path, resume: Path) -> Scores:
    """The explicit shape, or the best one in the budget; by default the parent's own."""

    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent).shape
    vocab_size = int(run.made["compact"].scores["vocab_size"].value)
    shape = decide_shape(run.recipe, vocab_size, parent)
    write_json(files / "shape.json", asdict(shape))
    write_json(files / "parent_shape.json", asdict(parent) if parent else None)
    return {
        "params": Score(count_params(shape), "parameters"),
        "flops_per_token": Score(flops_per_token(shape, 256), "FLOP at context 256"),
        "kv_bytes_per_token": Score(kv_bytes_per_token(shape), "bytes at 16 bit"),
        **{f"{p}.params": Score(n, "parameters") for p, n in params_by_part(shape).items()},
    }


def decide_shape(recipe: Recipe, vocab_size: int, parent: Shape | None) -> Shape:
    """The recipe's explicit shape, or the best in its budget; by default the parent's own.

    Raises `BudgetError` and `RecipeError`.
    """
    from pocketlm.model.shape import check_shape
    from pocketlm.stages.design import Budget, design

    table, family = recipe.design, parent.family if parent else recipe.family
    if table.max_params is not None:
        budget = Budget(max_params=table.max_params)
        return design(
            budget, vocab_size=vocab_size, family=family, parent_shape=parent, rank=table.rank
        )
    if table.shape is None:
        assert parent is not None  # the recipe's own check
        return parent.with_vocab(vocab_size)
    given = table.shape
    head_dim = given.head_dim or (parent.head_dim if parent else given.hidden // given.heads)
    tied = given.tied if given.tied is not None else (parent.tied if parent else True)
    numbers = given.model_dump() | {"head_dim": head_dim, "tied": tied}
    if parent:
        numbers |= {"series": parent.series, "shortcut": parent.shortcut}
        numbers |= {"flipped": parent.flipped}
    shape = Shape(family=family, vocab_size=vocab_size, **numbers)
    check_shape(shape, parent)
    return shape


def body_of(recipe: Recipe, parent: Shape | None) -> BodyOf:
    """The body that a vocabulary of some size would sit on: what `design` will decide.

    A vocabulary that alone breaks the budget has a body of nothing.
    """

    def body(vocab_size: int) -> Body:
        try:
            shape = decide_shape(recipe, vocab_size, parent)
        except BudgetError:
            return Body(params=0, hidden=1, matrices=1)
        matrices = 1 if shape.tied else 2
        params = count_params(shape) - matrices * vocab_size * shape.hidden
        return Body(params=params, hidden=shape.hidden, matrices=matrices)

    return body
