"""Costs before anything runs: nothing for what is there, more for more work."""

from pathlib import Path

from pocketlm.estimate import estimate
from pocketlm.recipe import load_recipe


def test_more_work_costs_more_and_nothing_is_written(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def seconds(**changes: object) -> dict[str, float]:
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        found = estimate(load_recipe(tiny_recipe, changes=keys), out=out)
        return {cost.step.stage: cost.seconds for cost in found.steps}

    base = seconds()
    assert seconds(train__rounds=200)["train"] > base["train"]
    assert seconds(export__formats=["huggingface", "gguf-f16"])["export"] > base["export"]
    assert all(cost > 0 for cost in base.values())
    data_free = seconds(inherit__neurons="l2", inherit__hidden="score", inherit__norm_energy=False,
                        inherit__refit="none")  # fmt: skip
    assert data_free["calibration"] == 0
    assert seconds(inherit__calibration_blocks=10_000)["calibration"] > base["calibration"]
    assert not out.exists()
