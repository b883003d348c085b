"""Settings files: TOML -> table -> changes -> one frozen model, or one line that says why not.

Recipes, studies, device profiles and model families are all read through here.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pocketlm.errors import RecipeError, did_you_mean

M = TypeVar("M", bound="Table")


class Table(BaseModel):
    """A settings table: frozen, no unknown keys, documented by its fields' docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def decisions(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """What differs from the defaults, the fields named in `without` left out: for keys.

        So a release that adds a field keeps every key; one that changes a default must raise the
        VERSION of its stage (a test holds the two together).
        """
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(without))


def load_table(model: type[M], path: Path, *, changes: Mapping[str, Any] | None = None) -> M:
    """Read the TOML file at `path` into `model`; raises `RecipeError`."""
    table = _read_toml(path)
    for key, value in (changes or {}).items():
        _set_dotted(table, key, value)
    return build_table(model, table, path.name)


def build_table(model: type[M], table: Mapping[str, Any], where: str) -> M:
    """Check `table` against `model`, types strictly; `RecipeError`s begin with `where`."""
    try:
        # As JSON, strictness lets a list be a tuple and 1 be 1.0, but never "2" be 2.
        text = json.dumps(table, default=str)
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise RecipeError(f"{where} {_explain(error, model)}") from None


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`["train.rounds=1", "inherit.neurons=l2"]` -> dotted keys with TOML values or text."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting!r}: write it as table.key=value")
        try:
            changes[key.strip()] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value.strip()
    return changes


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; give the path of a .toml recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path.name}: not TOML: {error}") from None


def _set_dotted(table: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for name in tables:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{key}: {name!r} is a value, not a table")
        table = inner
    table[last] = value


def _explain(error: ValidationError, model: type[Table]) -> str:
    """One line for the first thing wrong; pydantic's own words only where they are plain."""
    # A union reports one error per member; the deepest location is the one the user meant.
    first = max(error.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    # Union members appear in the location by class name; keys are lower case.
    members = {"str", "int"}
    loc = [p for p in map(str, first["loc"]) if p[:1] == p[:1].lower() and p not in members]
    keys = [p for p in loc if not p.startswith("tuple[")]
    *tables, key = keys or [""]
    where = f"[{'.'.join(tables)}] " if tables else ""
    if first["type"] == "extra_forbidden":
        return f"{where}{key}: no such key; {did_you_mean(key, _fields(model, tables))}"
    if first["type"] == "missing":
        return f"{where}{key}: missing"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if isinstance(first["input"], dict):
        return f"[{'.'.join([*tables, key])}]: {message}"
    return f"{where}{key} = {first['input']!r}: {message}"


def _fields(model: type[BaseModel], tables: list[str]) -> list[str]:
    """Field names of the table that `tables` leads to, through unions and options."""
    for name in tables:
        field = model.model_fields.get(name)
        if field is None:  # the name of a union's member, not a key
            continue
        for member in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(member, type) and issubclass(member, BaseModel):
                model = member
    return list(model.model_fields)
