"""Settings files: every mistake is one line that says where, what and what else."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from pocketlm.errors import RecipeError
from pocketlm.tables import Table, load_table, parse_settings


class Inner(Table):
    """A table inside."""

    rate: float = Field(default=1.0, gt=0)
    """Anything above nought."""


class Outer(Table):
    """A table with a table."""

    name: str
    """A name."""
    inner: Inner = Inner()
    """The inner table."""


def test_reads_and_freezes(tmp_path: Path) -> None:
    table = load_table(Outer, _file(tmp_path, 'name = "a"\n[inner]\nrate = 2'))
    assert (table.name, table.inner.rate) == ("a", 2.0)
    with pytest.raises(ValidationError):
        table.name = "b"


def test_changes_win_and_reach_into_tables(tmp_path: Path) -> None:
    path = _file(tmp_path, 'name = "a"')
    table = load_table(Outer, path, changes={"inner.rate": 3.0, "name": "b"})
    assert (table.name, table.inner.rate) == ("b", 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('nme = "a"\nname = "a"', r"^x\.toml nme: no such key; did you mean 'name'\? it has name"),
        ('name = "a"\n[inner]\nrat = 1', r"^x\.toml \[inner\] rat: no such key; .*'rate'"),
        ("", r"^x\.toml name: missing$"),
        ("name = 1", r"^x\.toml name = 1: .*string"),
        ('name = "a"\n[inner]\nrate = 0', r"^x\.toml \[inner\] rate = 0: .*greater than 0"),
        ('name = "a"\n[inner]\nrate = "much"', r"^x\.toml \[inner\] rate = 'much': .*number"),
        ('name = "a"\ninner = 3', r"^x\.toml inner = 3: "),
        ("name = ", r"^x\.toml: not TOML: "),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_table(Outer, _file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load_table(Outer, tmp_path / "none.toml")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read as text"):
        load_table(Outer, tmp_path / "x.toml")


def test_a_change_through_a_value(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'name' is a value, not a table"):
        load_table(Outer, _file(tmp_path, 'name = "a"'), changes={"name.x": 1})


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("train.rounds=1", "train.rounds", 1),
        ("inherit.neurons=l2", "inherit.neurons", "l2"),
        ("design.max_params = 1_000_000", "design.max_params", 1_000_000),
        ("compact.keep=['a', 'b']", "compact.keep", ["a", "b"]),
        ("parent={recipe='p.toml'}", "parent", {"recipe": "p.toml"}),
        ("evaluate.prompt=a = b", "evaluate.prompt", "a = b"),
        ("name='quoted'", "name", "quoted"),
        ("tied=true", "tied", True),
        ("prompt=", "prompt", ""),
    ],
)
def test_settings(setting: str, key: str, value: object) -> None:
    assert parse_settings([setting]) == {key: value}


@pytest.mark.parametrize("setting", ["rounds", "=1", ""])
def test_settings_need_a_key_and_an_equals_sign(setting: str) -> None:
    with pytest.raises(RecipeError, match=r"write it as table\.key=value"):
        parse_settings([setting])


def _file(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text)
    return path
