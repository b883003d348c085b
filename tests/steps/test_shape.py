"""Stage 2 inside a run: every kind of limit and ranker from a recipe, and what makes it anew."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.model.cost import decode_bytes
from pocketlm.model.scaling import LossPoint, fit_loss_law
from pocketlm.model.shape import Shape
from pocketlm.pipeline import make, plan
from pocketlm.recipe import Recipe, load_recipe
from pocketlm.summary import shape_notes


def changed(tiny_recipe: Path, **design: object) -> Recipe:
    """The tiny recipe with more keys of [design] beside its max_params."""
    changes = {f"design.{key}": value for key, value in design.items()}
    return load_recipe(tiny_recipe, changes={"name": "shaped", **changes})


def designed(recipe: Recipe, out: Path) -> tuple[Shape, dict]:
    artifact = make(recipe, out=out, until="design").artifacts["design"]
    shape = Shape(**json.loads(artifact.path("shape.json").read_text()))
    notes = shape_notes(artifact)
    assert notes is not None
    assert notes.short_list[0].shape == str(shape)
    return shape, {"notes": notes, "scores": artifact.scores}


def test_limits_of_a_recipe_bind(tiny_recipe: Path, tmp_path: Path) -> None:
    keys = {"max_bytes": 40_000, "context": 64, "min_tokens_per_s": 1.0}
    shape, found = designed(changed(tiny_recipe, **keys), tmp_path)
    assert decode_bytes(shape, "q8_0", 64) <= 40_000
    assert found["scores"]["decode_bytes"].value == decode_bytes(shape, "q8_0", 64)
    assert found["scores"]["predicted_tokens_per_s"].value > 1


def test_a_fitted_law_ranks_and_a_wrong_file_is_named(tiny_recipe: Path, tmp_path: Path) -> None:
    runs = [
        LossPoint(parameters=n, tokens=d, loss=1.5 + 20 / n**0.3 + 30 / d**0.3)
        for n in (1e4, 1e5, 1e6)
        for d in (1e5, 1e6, 1e7)
    ]
    law = fit_loss_law(runs, rng=np.random.default_rng(0), resamples=20)
    path = tmp_path / "law.json"
    path.write_text(json.dumps(law.as_dict()))
    recipe = changed(tiny_recipe, rank="scaling-law", law=str(path))
    _, found = designed(recipe, tmp_path / "out")
    first, *others = found["notes"].short_list
    assert all(first.value <= other.value for other in others)
    assert first.unit == "predicted loss"
    path.write_text("{}")
    with pytest.raises(RecipeError, match=r"law = .*law\.json: not a fitted law"):
        make(recipe, out=tmp_path / "out2", until="design")


def test_proxy_trains_its_candidates(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = changed(tiny_recipe, rank="proxy", proxy_tokens=600)
    _, found = designed(recipe, tmp_path)
    last = [line for line in found["notes"].short_list if "100%" in line.unit]
    assert last
    assert all(2 < line.value < 20 for line in last)
    assert [line.value for line in last] == sorted(line.value for line in last)


def test_only_what_decides_a_ranking_makes_it_anew(tiny_recipe: Path, tmp_path: Path) -> None:
    def key(**design: object) -> str:
        steps = plan(changed(tiny_recipe, **design), out=tmp_path)
        return next(step.key for step in steps if step.stage == "design")

    def seeded(rank: str, seed: int) -> str:
        recipe = changed(tiny_recipe, rank=rank).model_copy(update={"seed": seed})
        return next(step.key for step in plan(recipe, out=tmp_path) if step.stage == "design")

    assert key() == key()
    assert key() != key(context=65)
    assert seeded("deep-first", 0) == seeded("deep-first", 1)
    assert seeded("proxy", 0) != seeded("proxy", 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rank": "scaling-law"}, "needs law"),
        ({"weight_format": "q9"}, "weight_format = 'q9': no such format"),
        ({"rank": "proxy", "proxy_sampler": "tpee"}, "proxy_sampler = 'tpee'.*did you mean 'tpe'"),
        ({"law": "nowhere.json"}, r"law = .*nowhere\.json: no such file"),
        ({"runtime": "transformers"}, "'iphone' is another; take runtime = 'roofline'"),
    ],
)
def test_what_stage_2_lacks_is_said_before_stage_1(
    tiny_recipe: Path, tmp_path: Path, keys: dict[str, str], message: str
) -> None:
    recipe = changed(tiny_recipe, **keys).model_copy(update={"device": "iphone"})
    with pytest.raises(RecipeError, match=message):
        make(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_the_parent_cannot_give_is_refused_before_stage_1(
    tiny_recipe: Path, tmp_path: Path, family_parent: Callable[..., Path]
) -> None:
    parent = {"parent": str(family_parent("llama", tied=False))}
    with pytest.raises(RecipeError, match="tied = true: the parent's head is a matrix of its own"):
        make(changed(tiny_recipe, tied=True).model_copy(update=parent), out=tmp_path / "out")
    assert not list((tmp_path / "out" / "store").glob("co*"))
    with pytest.raises(RecipeError, match=r"tied goes with limits; a shape has shape\.tied"):
        load_recipe(tiny_recipe, changes={"design": {"tied": True}})
