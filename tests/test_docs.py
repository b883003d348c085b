"""Documents say what the program does: commands parse, names exist, links lead somewhere."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pocketlm
from pocketlm.ablation.study import load_study
from pocketlm.choices import check_choices
from pocketlm.recipe import load_recipe

FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
TEXT_SUFFIXES = {
    ".md",
    ".py",
    ".toml",
    ".txt",
    ".json",
    ".html",
    ".svg",
    ".csv",
    ".yml",
    ".yaml",
    "",
}
SKIPPED = {"runs", "build", "dist", "__pycache__"}
COMMAND = re.compile(r"^\$? ?(\w+=\S+ )*(\S*/)?pocketlm\s")

# Written with a bracket in each, so that this file does not match itself.
FORBIDDEN = re.compile(
    r"/w[o]rk/|/r[o]ot/|/h[o]me/\w|/U[s]ers/\w|/f[a]rm/|/o[p]t/(pypi|wheels)|/t[m]p/v\b"
    r"|pypi\.o[r]g/simple|python[h]osted|pytorch\.o[r]g/whl|/s[i]mple/"
)


def test_commands_are_real(root: Path) -> None:
    wrong = [
        f"{name}: {line}: {problem}"
        for name, line in _commands(root)
        if (problem := _problem_with(line))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("pocketlm make recipe.toml --out runs", ""),
        ("pocketlm bake recipe.toml", "no such verb"),
        ("pocketlm make recipe.toml --outt runs", "--outt"),
        ("OMP_NUM_THREADS=1 pocketlm make recipe.toml  # a comment", ""),
    ],
)
def test_wrong_commands_would_be_found(line: str, problem: str) -> None:
    assert problem in _problem_with(line)
    assert bool(problem) == bool(_problem_with(line))


def test_python_blocks_compile_and_use_public_names(root: Path) -> None:
    wrong = []
    for path in _documents(root):
        for language, code in _blocks(path):
            if language in ("python", "py"):
                used = _public_names_used(ast.parse(code))
                wrong += [f"{path.name}: pocketlm.{n}" for n in used - set(pocketlm.__all__)]
    assert not wrong


def test_links_lead_to_files(root: Path) -> None:
    broken = [
        f"{path.relative_to(root)}: {target}"
        for path in _documents(root)
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:|#", target)
        and not (path.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def test_make_targets_named_in_documents_exist(root: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for path in _documents(root)
        for target in re.findall(r"`make (\w+)`", path.read_text(encoding="utf-8"))
    }
    assert named <= targets


def test_no_file_names_a_machine(root: Path) -> None:
    found = [
        f"{path.relative_to(root)}: {match[0]!r}"
        for path in _files(root)
        if (match := FORBIDDEN.search(_text(path)))
    ]
    assert not found


def test_every_source_says_what_it_is(root: Path) -> None:
    bare = [
        str(path.relative_to(root))
        for path in sorted((root / "src").rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not bare


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") and path.name not in (".ci", ".github", ".gitignore"):
            continue
        inner = path.rglob("*") if path.is_dir() else [path]
        for file in inner:
            generated = SKIPPED & set(file.parts) or ".egg-info" in str(file)
            if file.is_file() and not generated and file.suffix in TEXT_SUFFIXES:
                yield file


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _documents(root: Path) -> list[Path]:
    return [path for path in _files(root) if path.suffix == ".md"]


def _blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    found = FENCE.findall(path.read_text(encoding="utf-8"))
    return [
        (language, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, language, text in found
    ]


def _commands(root: Path) -> Iterator[tuple[str, str]]:
    for path in _documents(root):
        for language, text in _blocks(path):
            if language in ("bash", "sh", "console"):
                for line in text.replace("\\\n", " ").splitlines():
                    if COMMAND.match(line.strip()):
                        yield path.name, line.strip().removeprefix("$ ")


def _problem_with(line: str) -> str:
    """What the command line would refuse, or nothing. Values are not looked at."""
    import typer.main

    from pocketlm.cli import app

    words = shlex.split(line, comments=True)
    place = next(i for i, word in enumerate(words) if Path(word).name == "pocketlm")
    verb, *rest = words[place + 1 :]
    ends = [i for i, word in enumerate(rest) if word in ("|", ">", "&&", ";", "2>", ">>")]
    rest = rest[: ends[0]] if ends else rest
    commands = typer.main.get_command(app).commands
    if verb in ("--help", "--version"):
        return ""
    if verb not in commands:
        return f"no such verb {verb}; it has {', '.join(sorted(commands))}"
    known = {o for p in commands[verb].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = [word for word in rest if re.match(r"--?[a-zA-Z]", word)]
    unknown = [word for word in unknown if word.partition("=")[0] not in known]
    return f"{verb} takes no {', '.join(unknown)}" if unknown else ""


def _public_names_used(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "pocketlm":
                names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "pocketlm":
            names |= {alias.name for alias in node.names}
    return names


def test_generated_pages_are_fresh(root: Path) -> None:
    """`make docs` writes them."""
    done = subprocess.run(
        [sys.executable, str(root / "docs" / "generate.py"), "--check"], check=False
    )
    assert done.returncode == 0, "run `make docs`"


def test_recipes_and_studies_load(root: Path) -> None:
    """Every shipped one, and the one in README."""
    for path in sorted((root / "recipes").rglob("*.toml")):
        check_choices(load_recipe(path))
    for path in sorted((root / "studies").glob("*.toml")):
        load_study(path)


def test_the_recipe_in_readme_loads(root: Path, tmp_path: Path) -> None:
    (code,) = [code for language, code in _blocks(root / "README.md") if language == "toml"]
    (tmp_path / "my.toml").write_text(code, encoding="utf-8")
    check_choices(load_recipe(tmp_path / "my.toml"))


def test_the_stages_in_readme_run(root: Path, tiny_parent: Path) -> None:
    """The Python block that calls each stage alone, at a size of tests."""
    codes = [code for language, code in _blocks(root / "README.md") if language == "python"]
    (code,) = [code for code in codes if "pocketlm.inherit(" in code]
    for written, tested in (
        ('"recipes/demo-parent"', repr(str(tiny_parent))),
        ("1_000_000", "30_000"),
        ("1_300_000", "15_000"),
        ("2048", "300"),
        ("seq_len=256", "seq_len=32"),
    ):
        assert written in code
        code = code.replace(written, tested)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["trained"].child.shape == names["shape"]
