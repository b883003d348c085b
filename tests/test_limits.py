"""The limits that keep every file readable in one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE_LINES = 300
FUNCTION_LINES = 45
LOOP_LINES = 60  # the training loop, and only there
PARAMETERS = 7  # a command of the command line has an option for each, and is left out
COLUMNS = 100
LEVELS = 3

LOOP = Path("stages/train/loop.py")
# What branches or repeats; a `with` only says how long something is open.
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.Try, ast.Match)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _sources(root: Path) -> list[Path]:
    return sorted((root / "src").rglob("*.py"))


def test_files_are_short(root: Path) -> None:
    long = {
        str(path.relative_to(root)): count
        for path in _sources(root)
        if (count := len(path.read_text().splitlines())) > FILE_LINES
    }
    assert not long


def test_lines_are_short(root: Path) -> None:
    wide = [
        f"{path.relative_to(root)}:{number}"
        for folder in ("src", "tests", "benchmarks")
        for path in sorted((root / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert not wide


def test_functions_are_short(root: Path) -> None:
    long = [
        f"{where}: {lines} lines"
        for path, where, function in _functions(root)
        if (lines := function.end_lineno - function.lineno + 1)
        > (LOOP_LINES if path.match(str(LOOP)) else FUNCTION_LINES)
    ]
    assert not long


def test_functions_take_few_parameters(root: Path) -> None:
    many = [
        where
        for path, where, function in _functions(root)
        if _parameters(function) > PARAMETERS and path.parent.name != "cli"  # an option each
    ]
    assert not many


def test_blocks_are_flat(root: Path) -> None:
    deep = [
        f"{where}: {depth} levels"
        for _, where, function in _functions(root)
        if (depth := _depth(function.body)) > LEVELS
    ]
    assert not deep


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("return 1", 0),
        ("for x in y:\n  if x:\n    return 1", 2),
        ("if a:\n  b\nelif c:\n  d\nelif e:\n  f\nelse:\n  g", 1),
        ("try:\n  a\nexcept E:\n  if b:\n    c", 2),
        ("for x in y:\n  with a:\n    if b:\n      c", 2),
        ("for x in y:\n  def g():\n    if x:\n      return 1", 1),
    ],
)
def test_depth_counts_blocks_inside_blocks(body: str, depth: int) -> None:
    assert _depth(ast.parse(body).body) == depth


def _functions(root: Path) -> Iterator[tuple[Path, str, Function]]:
    for path in _sources(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield path, f"{path.relative_to(root)}:{node.lineno} {node.name}", node


def _parameters(function: Function) -> int:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    own = names[:1] in (["self"], ["cls"])
    return len(names) - own + len(function.args.kwonlyargs)


def _depth(body: list[ast.stmt]) -> int:
    """Levels of nested blocks; `elif` is no level, and a nested function starts anew."""
    deepest = 0
    for node in body:
        if isinstance(node, BLOCKS):
            deepest = max(deepest, _depth_of_block(node))
        elif isinstance(node, ast.With | ast.AsyncWith):
            deepest = max(deepest, _depth(node.body))
    return deepest


def _depth_of_block(node: ast.stmt) -> int:
    if isinstance(node, ast.Match):
        return 1 + max(_depth(case.body) for case in node.cases)
    inner = _depth(getattr(node, "body", []))
    for handler in getattr(node, "handlers", []):
        inner = max(inner, _depth(handler.body))
    inner = max(inner, _depth(getattr(node, "finalbody", [])))
    orelse = getattr(node, "orelse", [])
    if isinstance(node, ast.If) and len(orelse) == 1 and isinstance(orelse[0], ast.If):
        return max(1 + inner, _depth(orelse))
    return 1 + max(inner, _depth(orelse))
