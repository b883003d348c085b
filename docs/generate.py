"""Write the pages that come out of the code: docs/recipe.md and docs/methods.md.

python docs/generate.py            write them
python docs/generate.py --check    exit 1 if one is stale
"""

import json
import sys
from pathlib import Path

from pocketlm.choices import CHOICES
from pocketlm.recipe import Recipe
from pocketlm.tables import Table

DOCS = Path(__file__).parent


def recipe_page() -> str:
    """Every key of a recipe: type, default, meaning, from the models' own docstrings."""
    lines = [
        "# Every key of a recipe",
        "",
        "Made by `make docs` from `src/pocketlm/recipe.py`.",
        "",
    ]
    lines += _table("top of the file", Recipe, skip_tables=True)
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            lines += _table(f"[{name}]", field.annotation)
    from pocketlm.recipe import ShapeTable

    lines += _table("[design.shape]", ShapeTable)
    return "\n".join(lines)


def methods_page() -> str:
    """Every method of every choice, with its source."""
    lines = ["# Every method", "", "Made by `make docs` from the stages' tables.", ""]
    for key, table in CHOICES.items():
        lines += [f"## {key}", "", "| name | what it does | source |", "|---|---|---|"]
        for name, method in table.items():
            says = method.says.replace("|", "\\|")
            lines.append(f"| `{name}` | {says} | {method.paper} |")
        lines.append("")
    return "\n".join(lines)


def _table(title: str, model: type[Table], *, skip_tables: bool = False) -> list[str]:
    lines = [f"## {title}", "", (model.__doc__ or "").splitlines()[0], ""]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        inner = isinstance(field.annotation, type) and issubclass(field.annotation, Table)
        if skip_tables and inner:
            continue
        required = field.is_required()
        default = "required" if required else f"`{json.dumps(field.default)}`"
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {default.replace('`null`', '')} | {meaning} |")
    return [*lines, ""]


PAGES = {"recipe.md": recipe_page, "methods.md": methods_page}


def main() -> int:
    """Write or check every page."""
    stale = 0
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if "--check" in sys.argv:
            stale += not path.is_file() or path.read_text(encoding="utf-8") != text
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
