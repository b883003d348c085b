"""`pocketlm corpus`: text to token shards, without a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.options import AsJson, Quiet, Settings, print_json, printable, progress


def corpus(
    files: Annotated[
        list[str], typer.Argument(metavar="GLOB...", help="Text, or `stdlib`; several are sources.")
    ],
    tokenizer: Annotated[
        Path, typer.Option(metavar="FILE|DIR", help="A tokenizer, or a model's folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the shards.")],
    workers: Annotated[int | None, typer.Option(help="Processes; by default the cores.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Tokenise text into DIR as datatrove's .ds shards; the same command goes on after a kill.

    The held-out 2 % of the documents is left out. --set takes a recipe's keys of corpus.
    """
    from pocketlm.tokenising import tokenise_files

    made = tokenise_files(
        files, tokenizer, out, settings=settings or [], workers=workers, progress=progress(quiet)
    )
    if as_json:
        print_json(made.as_dict())
    else:
        typer.echo("\n".join(map(printable, made.lines())))
