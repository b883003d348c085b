"""Every choice a recipe has, as one table of tables; names are checked before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.device import THIS_MACHINE, load_device
from pocketlm.errors import RecipeError
from pocketlm.method import Method, pick
from pocketlm.model.cost import check_weight_format
from pocketlm.model.family import load_family
from pocketlm.model.start import STARTS
from pocketlm.recipe import Recipe
from pocketlm.stages.compact.select import SELECTORS
from pocketlm.stages.design.propose import PROXY_SAMPLERS, check_sampler
from pocketlm.stages.design.rank import RANKERS
from pocketlm.stages.evaluate.benchmarks import check_asking
from pocketlm.stages.evaluate.metrics import NORMALISERS
from pocketlm.stages.evaluate.seam import SEAMS
from pocketlm.stages.export import FORMATS, check_formats
from pocketlm.stages.export.llama_cpp_speed import check_llama_cpp
from pocketlm.stages.export.quantise import choice_of
from pocketlm.stages.inherit.hidden import HIDDEN_CUTS
from pocketlm.stages.inherit.layers import LAYER_PICKS
from pocketlm.stages.inherit.neurons import NEURON_SCORES
from pocketlm.stages.inherit.refit import REFITS
from pocketlm.stages.train.optim import OPTIMIZERS
from pocketlm.stages.train.resample import RESAMPLERS, check_parent_losses
from pocketlm.stages.train.schedule import ROUND_SCHEDULES, SCHEDULES
from pocketlm.stages.train.sinks import SINKS, check_installed

CHOICES: dict[str, Mapping[str, Method[Any]]] = {
    "compact.select": SELECTORS,
    "design.rank": RANKERS,
    "design.proxy_sampler": PROXY_SAMPLERS,
    "inherit.start": STARTS,
    "inherit.layers": LAYER_PICKS,
    "inherit.neurons": NEURON_SCORES,
    "inherit.hidden": HIDDEN_CUTS,
    "inherit.refit": REFITS,
    "train.resample": RESAMPLERS,
    "train.schedule": SCHEDULES,
    "train.optimizer": OPTIMIZERS,
    "train.round_schedule": ROUND_SCHEDULES,
    "train.sinks": SINKS,
    "evaluate.normaliser": NORMALISERS,
    "evaluate.seam": SEAMS,
    "export.formats": FORMATS,
}


_ALSO = {  # names that a recipe may give and that stand for no single method
    "inherit.start": ("parent",),
    **dict.fromkeys(("inherit.neurons", "inherit.hidden", "inherit.refit"), ("auto",)),
}


def check_choices(recipe: Recipe) -> None:
    """Raise `RecipeError` for the first name of `recipe` that is in no table.

    Raises `UserError` for a format its family cannot have (a parent's family is not known yet), and
    for a family that only a parent can bring.
    """
    for key, table in CHOICES.items():
        stage, field = key.split(".")
        value = getattr(getattr(recipe, stage), field)
        names = value if isinstance(value, tuple) else (value,)
        for name in names:
            listed = key == "inherit.layers" and isinstance(name, int)
            if not listed and name not in _ALSO.get(key, ()):
                pick(table, name, f"[{stage}] {field}", also=_ALSO.get(key, ()))
    family = load_family(recipe.family)
    if recipe.parent is None:
        if family.auto_map:
            raise RecipeError(
                f"family = {recipe.family!r}: a recipe has no keys for its modules; choose llama, "
                f"or give a parent that is a {recipe.family}"
            )
        check_formats(recipe.export.formats, recipe.family)
    choice_of(recipe.export.keep_8bit, recipe.export.embedding_weights)
    asked = recipe.evaluate
    check_asking(asked.tasks, asked.normaliser, asked.seam, where="[evaluate] ")
    check_parent_losses(recipe.train, has_parent=recipe.parent is not None)
    check_installed(recipe.train.sinks)
    _check_design(recipe)
    if recipe.device != THIS_MACHINE:  # measuring it takes seconds and decides nothing here
        load_device(recipe.device)


def _check_design(recipe: Recipe) -> None:
    """Raise `RecipeError` for a format, ranker or runtime that cannot be."""
    table = recipe.design
    check_weight_format(table.weight_format)
    if table.rank == "proxy":
        check_sampler(table.proxy_sampler)
    if table.rank == "scaling-law" and table.law is None:
        raise RecipeError("[design] rank = 'scaling-law' needs law, the file of a fitted law")
    if table.law is not None and not Path(table.law).is_file():
        raise RecipeError(f"[design] law = {table.law}: no such file")
    if table.runtime == "llama.cpp":
        check_llama_cpp()
    if table.runtime != "roofline" and recipe.device != THIS_MACHINE:
        raise RecipeError(
            f"[design] runtime = {table.runtime!r} is timed on this machine, and device = "
            f"{recipe.device!r} is another; take runtime = 'roofline'"
        )
