"""`pocketlm evaluate`: a recipe up to its fifth stage, or any model without a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.making import up_to
from pocketlm.cli.options import AsJson, Quiet, Redo, Settings, print_json, printable, progress
from pocketlm.errors import RecipeError

Corpus = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Text for bits per byte; repeatable."),
]

LmEvalTasks = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="New folder: what is asked, as tasks of lm-eval."),
]


def evaluate(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe, or")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a model folder of transformers.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of benchmarks' files.")
    ] = None,
    tasks: Annotated[str, typer.Option(metavar="A,B", help="By default all that are there.")] = "",
    corpus: Corpus = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for the records; with RECIPE of all runs."),
    ] = None,
    lm_eval_tasks: LmEvalTasks = None,
    settings: Settings = None,
    redo: Redo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make RECIPE up to and including evaluate; or ask any model: --model, --data, --corpus.

    Without a recipe, --set takes a recipe's keys of evaluate, such as evaluate.items=200.
    """
    if recipe is not None:
        if model or data or tasks or corpus or lm_eval_tasks:
            raise RecipeError(
                "a recipe names what is evaluated; change it with --set evaluate.data=DIR"
            )
        up_to("evaluate", recipe, out or Path("runs"), settings, redo, as_json, quiet)
        return
    if model is None:
        raise RecipeError("give a recipe, or --model DIR with --data DIR or --corpus GLOB")
    from pocketlm.evaluating import evaluate_model, read_request

    request = read_request(
        model, data=data, tasks=tasks, corpus=corpus or [], settings=settings or [],
        lm_eval_tasks=lm_eval_tasks,
    )  # fmt: skip
    found = evaluate_model(request, out, progress=progress(quiet))
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo("\n".join(map(printable, found.lines())))
