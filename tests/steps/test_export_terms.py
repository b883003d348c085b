"""What export is told by a recipe: budgets before any training, scores and predictions after."""

import json

import pytest

from pocketlm.errors import BudgetError
from pocketlm.pipeline import make
from pocketlm.recipe import load_recipe
from pocketlm.summary import describe


def test_a_run_scores_times_and_predicts_its_files(tiny_recipe, tmp_path) -> None:
    run = make(load_recipe(tiny_recipe), out=tmp_path)
    scores, export = run.scores, run.artifacts["export"]
    child = scores["child.bits_per_byte"].value
    file = scores["export.huggingface.bits_per_byte"].value
    assert file == pytest.approx(child, rel=1e-6)  # all of so little held-out text is read by both
    assert scores["export.huggingface.bits_per_byte_loss_pct"].value == 0
    for name in ("load_s", "peak_bytes", "prefill_tokens_per_s", "decode_tokens_per_s"):
        assert scores[f"export.huggingface.{name}"].value > 0
    card = export.path("card.md").read_text()
    assert f"| huggingface | {file:.4f} | +0.00 |" in card
    assert json.loads(export.path("files.json").read_text())[0]["format"] == "huggingface"
    assert describe(run).exported[0].quality["bits_per_byte"] == file


def test_a_budget_no_file_can_keep_is_said_before_the_training(tiny_recipe, tmp_path) -> None:
    recipe = load_recipe(tiny_recipe, changes={"export.max_bytes": 20_000})
    with pytest.raises(BudgetError, match=r"\[export\] max_bytes = 20000: huggingface takes"):
        make(recipe, out=tmp_path)
    assert not list(tmp_path.glob("store/inherit-*"))
