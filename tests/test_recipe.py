"""Recipes: complete, frozen, documented, and plain about mistakes."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pocketlm import recipe as recipe_module
from pocketlm.errors import RecipeError
from pocketlm.recipe import ParentRecipe, Recipe, TrainTokenizer, load_recipe
from pocketlm.tables import Table, parse_settings

WITH_PARENT = """
name = "child"
parent = "models/parent"
[corpus]
files = ["text/*.txt"]
"""
FROM_NOTHING = """
name = "scratch"
tokenizer = { train = 512 }
[corpus]
files = ["stdlib"]
[design]
max_params = 1_000_000
"""


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    recipe = _load(tmp_path, WITH_PARENT)
    assert (recipe.train.rounds, recipe.train.keep_fraction) == (2, 0.5)
    assert recipe.train.resample == "softmax-loss"
    assert recipe.inherit.layers == "ends"
    assert recipe.design.rank == "deep-first"


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = _load(tmp_path, WITH_PARENT)
    assert recipe.parent == str(tmp_path / "models/parent")
    assert recipe.corpus.files == (str(tmp_path / "text/*.txt"),)


def test_every_kind_of_path_is_anchored(tmp_path: Path) -> None:
    text = WITH_PARENT.replace('"models/parent"', '{ recipe = "../parent.toml" }')
    recipe = _load(tmp_path, text)
    assert recipe.parent == ParentRecipe(recipe=str(tmp_path / "../parent.toml"))
    recipe = _load(tmp_path, FROM_NOTHING.replace("{ train = 512 }", '"tok.json"'))
    assert recipe.tokenizer == str(tmp_path / "tok.json")
    absolute = str(tmp_path / "far" / "x.txt")
    recipe = _load(tmp_path, WITH_PARENT.replace("text/*.txt", absolute))
    assert recipe.corpus.files == (absolute,)


def test_stdlib_is_no_path(tmp_path: Path) -> None:
    recipe = _load(tmp_path, FROM_NOTHING)
    assert recipe.corpus.files == ("stdlib",)
    assert recipe.tokenizer == TrainTokenizer(train=512)


def test_start_follows_the_parent(tmp_path: Path) -> None:
    assert _load(tmp_path, WITH_PARENT).start == "parent"
    assert _load(tmp_path, FROM_NOTHING).start == "constant"
    changed = {"inherit.start": "gpt2"}
    assert _load(tmp_path, FROM_NOTHING, changed).start == "gpt2"
    assert _load(tmp_path, WITH_PARENT, changed).start == "gpt2"


def test_settings_override_the_file(tmp_path: Path) -> None:
    changes = parse_settings(["train.rounds=1", "inherit.neurons=taylor", "seed=7"])
    recipe = _load(tmp_path, WITH_PARENT, changes)
    assert (recipe.train.rounds, recipe.inherit.neurons, recipe.seed) == (1, "taylor", 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian.rounds": 1}, r"trian: no such key; did you mean 'train'"),
        ({"train.round": 1}, r"\[train\] round: no such key; did you mean 'rounds'"),
        ({"corpus.file": []}, r"\[corpus\] file: no such key; did you mean 'files'"),
        ({"train.rounds": "two"}, r"\[train\] rounds = 'two': .*integer"),
        ({"train.rounds": -1}, r"\[train\] rounds = -1: .*greater than or equal to 0"),
        ({"train.keep_fraction": 0}, r"\[train\] keep_fraction = 0: .*greater than 0"),
        ({"train.engine": "other"}, r"\[train\] engine = 'other': .*'local'"),
        ({"train.batch_tokens": 64}, r"\[train\].*batch_tokens is below one block"),
        ({"name": "a/b"}, r"name = 'a/b'"),
        ({"corpus.files": []}, r"\[corpus\] files"),
        ({"parent": {"recpe": "x"}}, r"recpe: no such key; did you mean 'recipe'"),
        ({"design.shape": {"layers": 2}}, r"\[design.shape\] hidden: missing"),
        ({"tokenizer": "t.json"}, r"give parent or tokenizer, not both"),
    ],
)
def test_mistakes_say_where_and_what(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        _load(tmp_path, WITH_PARENT, changes)
    assert str(caught.value).startswith("recipe.toml ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\n[corpus]\nfiles = ["a"]', "without a parent a recipe needs a tokenizer"),
        (
            'name = "a"\ntokenizer = "t"\n[corpus]\nfiles = ["a"]',
            r"without a parent, \[design\] needs a limit such as max_params, or a shape",
        ),
        ('name = "a"\nparent = "p"', r"corpus: missing"),
    ],
)
def test_a_recipe_needs_a_source(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, text)


def test_budget_or_shape(tmp_path: Path) -> None:
    shape = {"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 1, "ffn": 64}
    assert _load(tmp_path, WITH_PARENT, {"design.shape": shape}).design.shape is not None
    with pytest.raises(RecipeError, match=r"give limits \(max_params, .*\) or shape, not both"):
        _load(tmp_path, FROM_NOTHING, {"design.shape": shape})


def test_frozen(tmp_path: Path) -> None:
    recipe = _load(tmp_path, WITH_PARENT)
    with pytest.raises(ValidationError):
        recipe.seed = 3
    with pytest.raises(ValidationError):
        recipe.train.rounds = 3


def test_a_saved_recipe_is_the_recipe(tmp_path: Path) -> None:
    for text in (WITH_PARENT, FROM_NOTHING):
        recipe = _load(tmp_path, text)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    "table",
    [
        value
        for value in vars(recipe_module).values()
        if isinstance(value, type) and issubclass(value, Table) and value is not Table
    ],
    ids=lambda table: table.__name__,
)
def test_every_key_says_what_it_is(table: type[BaseModel]) -> None:
    assert table.__doc__
    bare = [name for name, field in table.model_fields.items() if not field.description]
    assert not bare


def _load(folder: Path, text: str, changes: dict[str, Any] | None = None) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return load_recipe(path, changes=changes)
