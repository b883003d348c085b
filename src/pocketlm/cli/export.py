"""`pocketlm export`: a recipe to its end, or one checkpoint of its training as a model folder."""

from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.making import up_to
from pocketlm.cli.options import AsJson, Out, Quiet, RecipePath, Redo, Settings, load, print_json
from pocketlm.errors import RecipeError


def export(
    recipe: RecipePath,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="latest|best|STEP", help="Only this one of training, over or not,"),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="into this new folder, for transformers.")
    ] = None,
    out: Out = Path("runs"),
    settings: Settings = None,
    redo: Redo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make RECIPE up to and including export; or write a checkpoint of its training to DIR."""
    if checkpoint is None and to is None:
        up_to("export", recipe, out, settings, redo, as_json, quiet)
        return
    if checkpoint is None or to is None:
        raise RecipeError("--checkpoint and --to go together: which one, and the folder to write")
    from pocketlm.exporting import export_checkpoint

    made = export_checkpoint(load(recipe, settings), checkpoint, to, out=out)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"step {made['step']}, {made['verified']}\n\nexport  {made['folder']}")
