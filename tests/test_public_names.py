"""The public names, and what importing them costs."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pocketlm

HEAVY = ("torch", "transformers", "pyarrow", "scipy", "matplotlib", "rich")

PUBLIC = {
    "Blocks", "Budget", "Recipe", "compact", "compare", "design", "evaluate", "export", "inherit",
    "load_corpus", "load_device", "load_recipe", "load_study", "load_tokenizer", "make",
    "open_checkpoint", "open_run", "plan", "tokenise", "train", "verify",
}  # fmt: skip


def test_public_names_are_the_agreed_ones() -> None:
    assert set(pocketlm.__all__) == PUBLIC
    assert len(set(pocketlm.__all__)) == len(pocketlm.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    bare = [name for name in pocketlm.__all__ if not getattr(pocketlm, name).__doc__]
    assert not bare


def test_the_list_is_what_dir_shows() -> None:
    assert set(pocketlm.__all__) <= set(dir(pocketlm))


def test_importing_the_package_is_light() -> None:
    assert _loaded_after("import pocketlm") == []


def test_help_is_light() -> None:
    program = (
        "import sys, io, contextlib\n"
        "sys.argv = ['pocketlm', '--help']\n"
        "from pocketlm.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()\n"
    )
    assert not {"torch", "transformers"} & set(_loaded_after(program))


def test_method_tables_import_without_torch(root: Path) -> None:
    """A recipe's names are checked against every table before anything runs."""
    modules = _modules_with_tables(root / "src")
    assert modules, "no method tables found"
    program = "\n".join(f"import {module}" for module in modules)
    assert not {"torch", "transformers"} & set(_loaded_after(program))


def test_torchvision_is_absent() -> None:
    """One built for another torch makes transformers fail with a message about something else."""
    assert importlib.util.find_spec("torchvision") is None


def _loaded_after(program: str) -> list[str]:
    """Heavy packages in `sys.modules` once `program` has run in an interpreter of its own."""
    report = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def _modules_with_tables(source: Path) -> list[str]:
    """Modules that bind a capital name to a dictionary of `Method`s."""
    return [
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(source.rglob("*.py"))
        if any(map(_is_table, ast.parse(path.read_text()).body))
    ]


def _is_table(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign | ast.Assign) and "Method(" in ast.unparse(node)
