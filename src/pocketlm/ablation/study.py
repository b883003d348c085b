"""A study: one question, a base recipe, and arms that each change something about it.

    name = "rounds"
    question = "Does a second round earn its tokens?"
    base = "../recipes/pico.toml"
    seeds = [0, 1, 2]

    [arms.one-round]
    train.rounds = 1

Everything that can be wrong with a study is said before anything runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pocketlm.artifact import key_of
from pocketlm.errors import RecipeError
from pocketlm.recipe import ParentRecipe, Recipe, load_recipe
from pocketlm.tables import Table, load_table

BASELINE = "baseline"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_TABLES = frozenset(
    name
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Table)
)


class Study(Table):
    """Recipes one change apart, and how to decide between them."""

    name: str = Field(pattern=_NAME)
    """Name of the study: its folder under OUT/studies."""
    question: str = Field(min_length=1)
    """What it should answer, in one sentence."""
    base: str
    """Path of the baseline's recipe, relative to the study."""
    arms: dict[Annotated[str, Field(pattern=_NAME)], dict[str, Any]]
    """Arm -> dotted recipe key -> value. Paths are relative to the base recipe."""
    seeds: tuple[int, ...]
    """Seeds; every arm and the baseline run once with each, and are compared seed by seed."""
    score: str = "child.bits_per_byte"
    """The score that decides."""
    better: Literal["lower", "higher"] = "lower"
    """Which direction of the score is good."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance of any false verdict that the whole study may have (Holm)."""

    @field_validator("arms")
    @classmethod
    def _dotted(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not arms:
            raise ValueError("a study needs at least one arm beside the baseline")
        if BASELINE in arms:
            raise ValueError(f"the base recipe itself is the arm {BASELINE!r}; choose another name")
        return {arm: _flatten(patch) for arm, patch in arms.items()}

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("give at least one seed, each once, from 0 up")
        return seeds

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The baseline, then the arms as the study lists them."""
        return (BASELINE, *self.arms)

    def recipe(self, arm: str, seed: int) -> Recipe:
        """The recipe of one run, named STUDY.ARM.SEED; raises `RecipeError`."""
        patch = {} if arm == BASELINE else self.arms[arm]
        changes = {**patch, "seed": seed, "name": f"{self.name}.{arm}.{seed}"}
        return load_recipe(self.base, changes=changes)


def load_study(path: str | Path) -> Study:
    """Read a study and try every arm on its base.

    Raises `RecipeError`, one line, on an unknown key, a bad value, an arm that changes nothing, two
    arms that are the same, no arms, bad seeds.
    """
    path = Path(path)
    study = load_table(Study, path)
    base = path.resolve().parent / Path(study.base).expanduser()
    study = study.model_copy(update={"base": str(base)})
    arms: dict[str, str] = {}  # what a recipe comes to -> first arm that comes to it
    for arm in study.all_arms:
        try:
            fingerprint = recipe_key(study.recipe(arm, study.seeds[0]))
        except RecipeError as error:
            raise RecipeError(f"{path.name} arm {arm!r}: {error}") from None
        if fingerprint in arms:
            raise RecipeError(f"{path.name} arm {arm!r}: {_sameness(arms[fingerprint])}")
        arms[fingerprint] = arm
    return study


def recipe_key(recipe: Recipe, *, generations: int = 8) -> str:
    """16 hex digits for all a recipe says except its name, and for its parent's recipe with it.

    Raises `RecipeError` where recipes name each other in a circle.
    """
    table = recipe.decisions(without=["name"])
    if isinstance(recipe.parent, ParentRecipe):
        if not generations:
            raise RecipeError(f"{recipe.name}: its parents' recipes go in a circle")
        parent = load_recipe(recipe.parent.recipe)
        table["parent"] = recipe_key(parent, generations=generations - 1)
    return key_of(table)


def _sameness(other: str) -> str:
    if other == BASELINE:
        return "it changes nothing against the base recipe (name and seed are the study's own)"
    return f"it is the same recipe as arm {other!r}; drop one of them"


def _flatten(patch: dict[str, Any]) -> dict[str, Any]:
    """`train.rounds = 1` reads as a nested table; patching that in would drop its other keys."""
    flat: dict[str, Any] = {}
    for key, value in patch.items():
        if key in _TABLES and isinstance(value, dict):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    return flat
