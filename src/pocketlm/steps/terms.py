"""What export is told besides the child: budgets, choices of width, how to score and to predict."""

from functools import partial

from pocketlm.device import load_device, predict_decode_tokens_per_s
from pocketlm.model.cost import decode_bytes, weight_bytes
from pocketlm.model.shape import Shape
from pocketlm.recipe import Recipe
from pocketlm.stages.export.quantise import choice_of
from pocketlm.stages.export.terms import MemoryBudget, Terms, check_planned
from pocketlm.steps.choosing import held_out_bits
from pocketlm.steps.materials import Materials


def export_terms(run: Materials, shape: Shape) -> Terms:
    """Everything, for files of a child of `shape`; measures `this-machine` where that is meant."""
    recipe = run.recipe
    device = load_device(recipe.device)
    return Terms(
        choice=choice_of(recipe.export.keep_8bit, recipe.export.embedding_weights),
        max_bytes=recipe.export.max_bytes,
        memory=_memory(recipe, shape),
        bits_per_byte=held_out_bits(run),
        speed_tokens=recipe.evaluate.speed_tokens,
        device=device.name,
        predict_tokens_per_s=partial(predict_decode_tokens_per_s, device),
    )


def check_export(recipe: Recipe, shape: Shape) -> None:
    """Raise `BudgetError` for files that a child of `shape` cannot fit, before it is trained."""
    terms = Terms(
        choice=choice_of(recipe.export.keep_8bit, recipe.export.embedding_weights),
        max_bytes=recipe.export.max_bytes,
        memory=_memory(recipe, shape),
    )
    check_planned(shape, recipe.export.formats, terms)


def _memory(recipe: Recipe, shape: Shape) -> MemoryBudget | None:
    table = recipe.design
    if table.max_bytes is None:
        return None
    whole = decode_bytes(shape, table.weight_format, table.context)
    return MemoryBudget(
        max_bytes=table.max_bytes,
        weight_format=table.weight_format,
        other_bytes=whole - weight_bytes(shape, table.weight_format),
    )
