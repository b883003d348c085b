"""Weights of sources: read, priced, part of the keys, refused where they cannot be."""

import json
from pathlib import Path

import pytest

from pocketlm.artifact import Store
from pocketlm.errors import RecipeError
from pocketlm.estimate import estimate
from pocketlm.pipeline import make, plan
from pocketlm.recipe import Recipe, load_recipe


@pytest.fixture
def two_sources(tiny_recipe: Path, tiny_text: Path, tmp_path: Path) -> Path:
    """The tiny recipe on its text in two files."""
    lines = tiny_text.read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:600]), ("b.jsonl", lines[600:])):
        (tmp_path / name).write_text("".join(part))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    path = tmp_path / "two.toml"
    text = tiny_recipe.read_text().replace(json.dumps(str(tiny_text)), json.dumps(files)[1:-1])
    path.write_text(text)
    return path


def recipe(path: Path, weights: dict[str, float] | None, **changes: object) -> Recipe:
    weighted = {"corpus.weights": weights} if weights else {}
    return load_recipe(path, changes={"train.rounds": 1, **weighted, **changes})


def test_training_reads_by_weight_and_shards_are_shared(two_sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain = make(recipe(two_sources, None), out=out, until="train")
    changes = {"name": "mixed", "train.rounds": 1, "corpus.weights": {"b.jsonl": 2, "a.jsonl": 0}}
    mixed = make(load_recipe(two_sources, changes=changes), out=out, until="train")
    assert {"counts", "compact", "design", "tokens"} <= mixed.reused
    assert len(list(Store(out).folder.glob("tokens-*"))) == 1
    read = plain.artifacts["train"].scores, mixed.artifacts["train"].scores
    held = plain.artifacts["tokens"].scores
    assert 0.98 * held["train_bytes"].value < read[0]["bytes"].value <= held["train_bytes"].value
    # A third of the text, twice.
    assert read[1]["tokens"].value == pytest.approx(read[0]["tokens"].value * 2 / 3, rel=0.08)
    assert read[1]["bytes"].value == pytest.approx(read[0]["bytes"].value * 2 / 3, rel=0.08)


def test_plan_says_what_each_source_gives(two_sources: Path, tmp_path: Path) -> None:
    found = estimate(recipe(two_sources, {"a.jsonl": 0.5}), out=tmp_path)
    lines = [line.split() for line in found.lines()[-2:]]
    assert [line[0] for line in lines] == ["a.jsonl", "b.jsonl"]
    assert [line[4] for line in lines] == ["0.5", "1"]
    plain = estimate(recipe(two_sources, None), out=tmp_path)
    a, b = plain.sources
    assert found.pass_tokens == pytest.approx(a.tokens / 2 + b.tokens)
    assert found.train_tokens < plain.train_tokens
    assert found.as_dict()["pass_tokens"]["a.jsonl"] == round(a.tokens / 2)


def test_only_what_reads_blocks_gets_another_key(two_sources: Path, tmp_path: Path) -> None:
    def changed(**changes: object) -> set[str]:
        before, after = (
            {step.stage: step.key for step in plan(recipe(two_sources, w, **changes), out=tmp_path)}
            for w in (None, {"a.jsonl": 2.0})
        )
        return {stage for stage in before if before[stage] != after[stage]}

    assert changed() == {"calibration", "inherit", "train", "evaluate", "export"}
    # Random weights look at no text.
    assert changed(**{"inherit.start": "constant"}) == {"train", "evaluate", "export"}


def test_sources_that_are_not_there_are_named(two_sources: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no source 'c\.jsonl'; there are a\.jsonl, b\.jsonl"):
        plan(recipe(two_sources, {"c.jsonl": 1.0}), out=tmp_path)
    with pytest.raises(RecipeError, match="weights"):
        recipe(two_sources, {"a.jsonl": -1.0})
