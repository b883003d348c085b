"""Imports point one way; typing-only and function-local ones count too."""

import ast
from pathlib import Path

PACKAGE = "pocketlm"

# From importing to imported. A module belongs to the longest entry that fits; modules of one entry
# may import each other, entries of one level may not.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("showing",),
    ("ablation",),
    ("summary", "estimate", "exporting", "generating", "together", "comparing"),
    ("pipeline", "compacting", "tokenising", "evaluating", "price"),
    ("steps", "choices"),
    (
        "stages.compact",
        "stages.design",
        "stages.inherit",
        "stages.train",
        "stages.evaluate",
        "stages.export",
        "inputs",
        "runs",
        "run_report",
        "doctor",
    ),
    ("model", "corpus"),
    ("artifact", "device", "hardware", "progress", "report"),
    ("method", "statistics"),
    ("recipe",),
    ("design_table", "train_table", "evaluate_table", "export_table"),
    ("rounds_table", "distil_table"),
    ("tables",),
    ("units", "errors", "finding", "stages"),
)
LEVEL = {entry: level for level, entries in enumerate(LEVELS) for entry in entries}
FREE = {""}  # the public list, which imports lazily whatever it names


def test_every_module_has_a_level(root: Path) -> None:
    homeless = [m for m in _modules(root) if m not in FREE and _entry(m) is None]
    assert not homeless, f"give these a level in tests/test_layering.py: {homeless}"


def test_imports_point_down(root: Path) -> None:
    modules = set(_modules(root))
    wrong = [
        f"{source} imports {target}"
        for source, path in _modules(root).items()
        if source not in FREE
        for target in sorted(_imports(path, source, modules))
        if not _may_import(source, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_method_imports_only_errors(root: Path) -> None:
    modules = _modules(root)
    assert _imports(modules["method"], "method", set(modules)) == {"errors"}


def test_stages_never_import_their_sisters() -> None:
    assert not _may_import("stages.train", "stages.inherit.cut")
    assert _may_import("stages.train.loop", "stages.train.optim")
    assert _may_import("stages.train", "model.child")
    assert not _may_import("model.child", "stages.train")
    assert not _may_import("stages.train", "stages.unknown")


def test_local_and_typing_imports_count(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pocketlm.cli import main\n"
        "def f():\n    from pocketlm import pipeline\n    from ..model import child\n"
    )
    known = {"cli", "pipeline", "model", "model.child"}
    assert _imports(path, "stages.train.loop", known) >= {"cli", "pipeline"}


def _may_import(source: str, target: str) -> bool:
    of, to = _entry(source), _entry(target)
    if of is None or to is None:
        return False
    return of == to or LEVEL[of] < LEVEL[to]


def _entry(module: str) -> str | None:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        # The folder `stages` holds their names only; a new file in it is no part of that.
        if name in LEVEL and (name != "stages" or module == "stages"):
            return name
    return None


def _modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    base = root / "src" / PACKAGE
    return {
        ".".join(path.relative_to(base).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in sorted(base.rglob("*.py"))
    }


def _imports(path: Path, module: str, known: set[str]) -> set[str]:
    """Names below the package that a file imports, wherever the import stands."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([PACKAGE, *above, base]).strip(".")
            found |= {f"{base}.{a.name}" for a in node.names}
    below = {name.removeprefix(f"{PACKAGE}.") for name in found if name.startswith(f"{PACKAGE}.")}
    return {name if name in known else name.rpartition(".")[0] or name for name in below}
