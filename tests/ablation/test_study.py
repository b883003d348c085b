"""A study is right before anything runs, or it is one line that says why not."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pocketlm.ablation.study import load_study, recipe_key
from pocketlm.errors import RecipeError
from pocketlm.recipe import load_recipe

WriteStudy = Callable[..., Path]


def test_a_study_gives_one_recipe_an_arm_and_seed(write_study: WriteStudy) -> None:
    study = load_study(write_study())
    assert study.all_arms == ("baseline", "one-round", "untrained")
    recipe = study.recipe("one-round", 2)
    assert recipe.name == "rounds.one-round.2"
    assert (recipe.seed, recipe.train.rounds) == (2, 1)
    assert study.recipe("baseline", 0).train.rounds == 2


def test_nested_and_dotted_keys_are_the_same_patch(write_study: WriteStudy) -> None:
    base = "name='b'\nparent='p'\ncorpus.files=['stdlib']\ntrain.rounds=2\ntrain.seq_len=64\n"
    study = load_study(write_study(base=base))
    assert study.arms == {"one-round": {"train.rounds": 1}, "untrained": {"train.rounds": 0}}
    assert study.recipe("one-round", 0).train.seq_len == 64  # its neighbours in the table stay


def test_tables_that_are_values_replace_the_value(write_study: WriteStudy) -> None:
    study = load_study(write_study({"train.rounds = 1": 'parent = { recipe = "base.toml" }'}))
    assert study.arms["one-round"] == {"parent": {"recipe": "base.toml"}}


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({"train.rounds = 1": "train.round = 1"}, "arm 'one-round': base.toml [train] round: no"),
        ({"train.rounds = 1": "train.round = 1"}, "did you mean 'rounds'?"),
        ({"train.rounds = 1": "train.rounds = -1"}, "arm 'one-round': base.toml [train] rounds"),
        ({"train.rounds = 1": "train.rounds = 2"}, "'one-round': it changes nothing"),
        ({"train.rounds = 1": ""}, "'one-round': it changes nothing"),
        ({"train.rounds = 1": "seed = 9"}, "'one-round': it changes nothing"),
        ({"train.rounds = 1": "train.rounds = 0"}, "'untrained': it is the same recipe as arm"),
        ({"[arms.one-round]": "[arms.baseline]"}, "choose another name"),
        ({"[arms.one-round]": '[arms."a/b"]'}, "a/b"),
        ({"[0, 1, 2]": "[]"}, "give at least one seed"),
        ({"[0, 1, 2]": "[1, 1]"}, "give at least one seed, each once"),
        ({"[0, 1, 2]": "[-1]"}, "from 0 up"),
        ({"seeds =": "seed ="}, "did you mean 'seeds'?"),
        ({"base.toml": "bass.toml"}, "no such file"),
    ],
)
def test_mistakes_are_one_line(
    write_study: WriteStudy, replace: Mapping[str, str], said: str
) -> None:
    path = write_study(replace)
    with pytest.raises(RecipeError) as caught:
        load_study(path)
    assert said in str(caught.value)
    assert "study.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_without_arms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('name="s"\nquestion="?"\nbase="b.toml"\nseeds=[0]\n[arms]\n')
    with pytest.raises(RecipeError, match="at least one arm"):
        load_study(path)


def test_recipe_key_sees_all_but_the_name(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study())
    recipe = study.recipe("baseline", 0)
    assert recipe_key(recipe) == recipe_key(recipe.model_copy(update={"name": "other"}))
    assert recipe_key(recipe) != recipe_key(study.recipe("baseline", 1))


def test_recipe_key_sees_the_parents_recipe(write_study: WriteStudy, tmp_path: Path) -> None:
    parent = tmp_path / "big.toml"
    text = 'name = "big"\ntokenizer = { train = 300 }\ndesign.max_params = 1000000\n'
    parent.write_text(text + 'corpus.files = ["stdlib"]\n')
    study = load_study(write_study({"train.rounds = 1": 'parent = { recipe = "big.toml" }'}))
    before = recipe_key(study.recipe("one-round", 0))
    parent.write_text(text + 'corpus.files = ["stdlib"]\ntrain.rounds = 1\n')
    assert recipe_key(study.recipe("one-round", 0)) != before


def test_parents_in_a_circle_are_one_line(tmp_path) -> None:
    (tmp_path / "a.toml").write_text(
        'name = "a"\nparent = { recipe = "a.toml" }\n[corpus]\nfiles = ["stdlib"]\n'
    )
    with pytest.raises(RecipeError, match="circle"):
        recipe_key(load_recipe(tmp_path / "a.toml"))
