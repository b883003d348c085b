"""Write the pages that come out of the code and of committed numbers, and README's table of them.

python docs/generate.py            write them
python docs/generate.py --check    exit 1 if one is stale
"""

import json
import re
import sys
from pathlib import Path

from pocketlm.choices import CHOICES
from pocketlm.recipe import Recipe
from pocketlm.tables import Table

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"


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


def lengths_table() -> str:
    """Growth of held-out text for each tokenizer, selector and share kept."""
    numbers = json.loads((RESULTS / "compact" / "compact.json").read_text(encoding="utf-8"))
    names = {"internlm": "InternLM, zh + en", "gpt2": "GPT-2, en", "qwen": "Qwen, zh + en"}
    rows = {
        "usage": "`usage`, ours",
        "frequency": "`frequency`, the paper's",
        "smoothed": "`smoothed`",
        "last-merges": "`last-merges`",
        "retrained": "trained anew at that size (no row of the parent fits it)",
    }
    shares = (75, 50, 25)
    lines = [
        "| kept: " + " / ".join(f"{share} %" for share in shares) + " | "
        + " | ".join(names.values()) + " |",
        "|---|" + "---|" * len(names),
    ]  # fmt: skip
    for key, says in rows.items():
        cells = [
            " / ".join(f"{numbers[f'{name}_{key}_{share}']:+.1f}" for share in shares)
            + (f" ({dead:,.0f} dead)" if (dead := numbers.get(f"{name}_{key}_dead", 0)) else "")
            for name in names
        ]
        lines.append(f"| {says} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def counting_table() -> str:
    """Counting speed of each tokenizer and language against the two peers."""
    numbers = json.loads((RESULTS / "compact" / "compact.json").read_text(encoding="utf-8"))
    lines = [
        "| MB/s of one core | ours | `encode_batch_fast` + Counter | the paper's way | ratios |",
        "|---|---|---|---|---|",
    ]
    for key in (key for key in numbers if key.endswith("_batch_mb_per_s")):
        arm = key.removesuffix("_batch_mb_per_s")
        _, language, name = arm.split("_")
        speeds = [numbers[f"{arm}{kind}_mb_per_s"] for kind in ("", "_batch", "_paper")]
        ratios = f"{numbers[f'{arm}_ratio']:.1f} x, {numbers[f'{arm}_paper_ratio']:.1f} x"
        cells = [f"{name}, {language}", *(f"{speed:.1f}" for speed in speeds), ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table() -> str:
    """Predicted against measured tokens per second on one machine, shapes that were not fitted."""
    found = json.loads((RESULTS / "design" / "this-machine.json").read_text(encoding="utf-8"))
    lines = [
        f"On {found['model'].removeprefix('the machine pocketlm runs on, ')}, float32:",
        "",
        "| layers x hidden | tokens/s, best round | predicted | error | median round | slowest / "
        "fastest |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["transformers"]["checked"]:
        numbers = f"{row['measured']:.0f} | {row['predicted']:.0f} | {row['error']:+.1%}"
        # Numbers from before medians were kept have none.
        median = f"{row['tokens_per_s_median']:.0f}" if "tokens_per_s_median" in row else ""
        lines.append(f"| {row['shape']} | {numbers} | {median} | {row['spread']:.2f} |")
    return "\n".join(lines)


PAGES = {"recipe.md": recipe_page, "methods.md": methods_page}
TABLES = {"lengths": lengths_table, "counting": counting_table, "speed": speed_table}
WITH_TABLES = (DOCS.parent / "README.md", DOCS / "1-compact.md", DOCS / "2-design.md")


def main() -> int:
    """Write or check every page."""
    stale = 0
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if "--check" in sys.argv:
            stale += not path.is_file() or path.read_text(encoding="utf-8") != text
        else:
            path.write_text(text, encoding="utf-8")
    for path in WITH_TABLES:
        text = path.read_text(encoding="utf-8")
        for name, table in TABLES.items():
            between = rf"(<!-- {name}: made by `make docs` -->\n).*?(<!-- end -->)"
            made = table() + "\n"
            new = re.sub(between, lambda m, t=made: m[1] + t + m[2], text, flags=re.DOTALL)
            if "--check" in sys.argv:
                stale += new != text
            else:
                path.write_text(new, encoding="utf-8")
            text = new
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
