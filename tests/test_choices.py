"""Every name a recipe may hold is checked before anything runs."""

from pathlib import Path

import pytest

from pocketlm.choices import CHOICES, check_choices
from pocketlm.errors import RecipeError, UserError
from pocketlm.recipe import load_recipe


def test_the_defaults_are_in_their_tables(tiny_recipe: Path) -> None:
    check_choices(load_recipe(tiny_recipe))


@pytest.mark.parametrize("key", CHOICES)
def test_an_unknown_name_is_refused_with_its_key(key: str, tiny_recipe: Path) -> None:
    value = ("nothing",) if key == "export.formats" else "nothing"
    stage, field = key.split(".")
    with pytest.raises(RecipeError, match=rf"\[{stage}\] {field} = 'nothing'"):
        check_choices(load_recipe(tiny_recipe, changes={key: value}))


@pytest.mark.parametrize(
    ("key", "name"), [("inherit.neurons", "auto"), ("inherit.start", "parent")]
)
def test_the_refusal_names_what_stands_for_no_single_method(
    key: str, name: str, tiny_recipe: Path
) -> None:
    with pytest.raises(RecipeError, match=rf"it has {name}, "):
        check_choices(load_recipe(tiny_recipe, changes={key: "nothing"}))


@pytest.mark.parametrize(("key", "name"), [("family", "lama"), ("device", "iphon")])
def test_so_are_families_and_devices(key: str, name: str, tiny_recipe: Path) -> None:
    with pytest.raises(UserError, match=name):
        check_choices(load_recipe(tiny_recipe, changes={key: name}))


def test_a_family_with_modules_needs_a_parent(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, changes={"family": "pangu_pi"})
    check_choices(recipe)
    with pytest.raises(RecipeError, match=r"family = 'pangu_pi': .*choose llama, or"):
        check_choices(recipe.model_copy(update={"parent": None}))


def test_every_method_names_its_source() -> None:
    for table in CHOICES.values():
        for method in table.values():
            assert method.paper
