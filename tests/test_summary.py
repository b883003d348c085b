"""A recipe written out whole reads back as itself."""

from pathlib import Path

from pocketlm.recipe import load_recipe
from pocketlm.summary import as_toml


def test_as_toml_reads_back(tiny_recipe: Path, tmp_path: Path) -> None:
    changes = {
        "name": "again",
        "design.max_params": None,
        "design.shape": {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "ffn": 64},
        "compact.keep": ['a "quoted" word', "ü\n"],
    }
    recipe = load_recipe(tiny_recipe, changes=changes)
    (tmp_path / "written.toml").write_text(as_toml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "written.toml") == recipe
