"""What the verbs share: their common options, reading a recipe, writing to the screen."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketlm.progress import SILENT, Progress, RichProgress

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A .toml recipe.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of all runs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key; repeatable."),
]
Redo = Annotated[str | None, typer.Option(metavar="STAGE", help="Make this stage again.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TimedIn = Annotated[
    str,
    typer.Option("--runtime", metavar="NAME", help="For this-machine: transformers or llama.cpp."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")]


def load(path: Path, settings: list[str] | None) -> Any:
    from pocketlm.recipe import load_recipe
    from pocketlm.tables import parse_settings

    return load_recipe(path, changes=parse_settings(settings or []))


def progress(quiet: bool) -> Progress:
    return SILENT if quiet else RichProgress()


def print_json(table: dict[str, Any]) -> None:
    typer.echo(json.dumps(table, ensure_ascii=False))


def printable(text: str) -> str:
    """Without control characters: model text must not drive a terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
