"""The verbs: each reads its options, calls one function, prints what came back."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pocketlm.cli.making import flat, up_to, write_report
from pocketlm.cli.options import (
    AsJson,
    Out,
    Quiet,
    RecipePath,
    Redo,
    Settings,
    TimedIn,
    load,
    print_json,
    printable,
    progress,
)
from pocketlm.errors import RecipeError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a larger language model and a corpus into the best tiny one for a device.",
)


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"pocketlm {installed('pocketlm')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.command()
def make(
    recipe: RecipePath,
    out: Out = Path("runs"),
    settings: Settings = None,
    redo: Redo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make all six stages of RECIPE, reusing what is there; print parent against child."""
    from pocketlm import pipeline
    from pocketlm.summary import result_lines

    found = load(recipe, settings)
    run = pipeline.make(found, out=out, redo=redo, progress=progress(quiet))
    report = write_report(run)
    if as_json:
        print_json(flat(run) | {"report": str(report)})
    else:
        for line in [*result_lines(run), "", f"report  {report}"]:
            typer.echo(printable(line))


@app.command()
def compact(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe, or")] = None,
    parent: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a model to make smaller, or")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="a tokenizer alone.")
    ] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Text; repeatable.")
    ] = None,
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Tokens to keep; auto needs --parent.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for the result; with RECIPE of all runs."),
    ] = None,
    settings: Settings = None,
    redo: Redo = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make RECIPE up to and including compact; or cut one vocabulary: --parent or --tokenizer.

    Without a recipe, --set takes a recipe's keys of corpus and compact.
    """
    if recipe is not None and (parent or tokenizer or corpus or vocab_size):
        raise RecipeError("a recipe names its parent, corpus and size; change them with --set")
    if recipe is not None:
        up_to("compact", recipe, out or Path("runs"), settings, redo, as_json, quiet)
        return
    if out is None:
        raise RecipeError("--out DIR is missing: give a new folder for the result")
    from pocketlm.compacting import compact_files, read_request

    request = read_request(
        parent=parent, tokenizer=tokenizer, corpus=corpus or [], vocab_size=vocab_size,
        settings=settings or [],
    )  # fmt: skip
    made = compact_files(request, out, progress=progress(quiet))
    if as_json:
        print_json(made.as_dict())
    else:
        typer.echo("\n".join(map(printable, made.lines())))


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        recipe: RecipePath,
        out: Out = Path("runs"),
        settings: Settings = None,
        redo: Redo = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        up_to(stage, recipe, out, settings, redo, as_json, quiet)

    command.__doc__ = f"Make RECIPE up to and including {stage}."
    return command


for _stage in ("design", "inherit", "train", "export"):
    app.command(_stage)(_stage_command(_stage))


@app.command()
def plan(
    recipe: RecipePath,
    out: Out = Path("runs"),
    settings: Settings = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak that training reaches; 0.4.")
    ] = None,
    peak_flops: Annotated[
        float | None, typer.Option(help="FLOP/s of one GPU; 989e12, an H100 SXM in bf16.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what `make` would make, what it would reuse, and what it costs; price the child."""
    from pocketlm.estimate import quote

    given = {"mfu": mfu, "peak_flops": peak_flops}
    rates = {key: value for key, value in given.items() if value is not None}
    quoted = quote(load(recipe, settings), out=out, **rates)
    if as_json:
        print_json(quoted.as_dict())
        return
    for line in quoted.lines():
        typer.echo(printable(line))


@app.command()
def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A .toml study.")],
    out: Out = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing of STUDY, arm by arm and seed by seed, and report."""
    from pocketlm.ablation.compare import compare as run_study
    from pocketlm.ablation.compare import estimate_seconds
    from pocketlm.ablation.report import write_report
    from pocketlm.ablation.study import load_study

    loaded = load_study(study)
    hours = estimate_seconds(loaded, out=out) / 3600
    typer.echo(f"{loaded.name}: about {hours:.2f} hours of work left", err=True)
    comparison = run_study(loaded, out=out, progress=progress(quiet))
    written = write_report(comparison, out / "studies" / loaded.name)
    if as_json:
        typer.echo(written["json"].read_text(encoding="utf-8"))
    else:
        typer.echo(written["markdown"].read_text(encoding="utf-8"))
        typer.echo(f"report  {written['html']}")


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="RUN|RECIPE|DEVICE|methods")],
    other: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run to hold against the first.")
    ] = None,
    out: Out = Path("runs"),
    settings: Settings = None,
    as_json: AsJson = False,
    runtime: TimedIn = "transformers",
) -> None:
    """Show a run's numbers, a recipe with all defaults, a device profile, or every method.

    Two runs are compared, the second held against the first, item by item.
    """
    from pocketlm import showing
    from pocketlm.device import THIS_MACHINE
    from pocketlm.tables import parse_settings

    if what == THIS_MACHINE:
        typer.echo("timing twenty shapes here: about a minute", err=True)
    if other is None:
        changes = parse_settings(settings or [])
        table, lines = showing.show(what, out=out, changes=changes, runtime=runtime)
    else:
        table, lines = showing.show_difference(what, other, out=out)
    if as_json:
        print_json(table)
        return
    for line in lines:
        typer.echo(printable(line))


@app.command()
def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")] = "",
    out: Out = Path("runs"),
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 120,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws, if temperature > 0.")] = 0,
) -> None:
    """Let the child of RUN continue PROMPT."""
    from pocketlm.generating import continue_run
    from pocketlm.runs import open_run

    found = open_run(run, out=out)
    text = continue_run(found, prompt, tokens=tokens, temperature=temperature, seed=seed)
    typer.echo(printable(prompt + text))


@app.command()
def new(
    corpus: Annotated[str, typer.Option(metavar="GLOB", help="Text, or `stdlib`.")],
    parent: Annotated[str, typer.Option(metavar="DIR", help="Folder of the parent.")],
    device: Annotated[str, typer.Option(metavar="NAME")] = "this-machine",
    max_params: Annotated[
        int | None, typer.Option(help="The child's budget; by default a third of the parent's.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run.")] = "my-child",
) -> None:
    """Print a commented starter recipe: `pocketlm new ... > my.toml`."""
    from pocketlm.showing import starter_recipe

    typer.echo(starter_recipe(name, parent, corpus, device=device, max_params=max_params), nl=False)


@app.command()
def doctor(
    eval_folder: Annotated[
        Path | None, typer.Option("--eval", metavar="DIR", help="Look over benchmark files too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from pocketlm.doctor import examine

    findings = examine()
    if eval_folder is not None:
        from pocketlm.stages.evaluate.examine import examine_benchmarks

        findings += examine_benchmarks(eval_folder)
    if as_json:
        print_json({f.name: {"state": f.state, "text": f.text} for f in findings})
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<8} {finding.name:<18} {finding.text}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
