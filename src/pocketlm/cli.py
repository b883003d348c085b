"""The command line: verbs to calls. The only file that prints or exits.

Results go to stdout, progress to stderr. Exit 0 made, 1 failed, 2 your input, 75 interrupted and
resumable.
"""

import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from pocketlm.errors import Interrupted, PocketLMError
from pocketlm.hardware import PROCESS_SETTINGS
from pocketlm.progress import SILENT, Progress, RichProgress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a larger language model and a corpus into the best tiny one for a device.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A .toml recipe.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of all runs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key; repeatable."),
]
Redo = Annotated[str | None, typer.Option(metavar="STAGE", help="Make this stage again.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")]


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

    found = _load(recipe, settings)
    run = pipeline.make(found, out=out, redo=redo, progress=_progress(quiet))
    report = _write_report(run)
    if as_json:
        _print_json(_flat(run) | {"report": str(report)})
    else:
        _print_run(run)
        typer.echo(f"\nreport  {report}")


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        recipe: RecipePath,
        out: Out = Path("runs"),
        settings: Settings = None,
        redo: Redo = None,
        as_json: AsJson = False,
        quiet: Quiet = False,
    ) -> None:
        from pocketlm import pipeline

        found = _load(recipe, settings)
        progress = _progress(quiet)
        run = pipeline.make(found, out=out, until=stage, redo=redo, progress=progress)
        if as_json:
            _print_json(_flat(run))
            return
        for name, score in run.artifacts[stage].scores.items():
            typer.echo(f"{name:<28} {score.value:<12.6g} {score.unit}")
        typer.echo(f"\n{stage}  {run.artifacts[stage].folder}")

    command.__doc__ = f"Make RECIPE up to and including {stage}."
    return command


for _stage in ("compact", "design", "inherit", "train", "evaluate", "export"):
    app.command(_stage)(_stage_command(_stage))


@app.command()
def plan(
    recipe: RecipePath,
    out: Out = Path("runs"),
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say what `make` would make, what it would reuse, and what it costs."""
    from pocketlm.estimate import estimate

    estimated = estimate(_load(recipe, settings), out=out)
    if as_json:
        _print_json(estimated.as_dict())
        return
    for line in estimated.lines():
        typer.echo(line)


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
    comparison = run_study(loaded, out=out, progress=_progress(quiet))
    written = write_report(comparison, out / "studies" / loaded.name)
    if as_json:
        typer.echo(written["json"].read_text(encoding="utf-8"))
    else:
        typer.echo(written["markdown"].read_text(encoding="utf-8"))
        typer.echo(f"report  {written['html']}")


@app.command()
def show(
    what: Annotated[str, typer.Argument(metavar="RUN|RECIPE|DEVICE|methods")],
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show a run's numbers, a recipe with all defaults, a device profile, or every method."""
    from pocketlm import showing

    table, lines = showing.show(what, out=out)
    if as_json:
        _print_json(table)
        return
    for line in lines:
        typer.echo(_printable(line))


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
    from pocketlm.pipeline import open_run

    found = open_run(run, out=out)
    text = continue_run(found, prompt, tokens=tokens, temperature=temperature, seed=seed)
    typer.echo(_printable(prompt + text))


@app.command()
def new(
    corpus: Annotated[str, typer.Option(metavar="GLOB", help="Text, or `stdlib`.")],
    parent: Annotated[str, typer.Option(metavar="DIR", help="Folder of the parent.")],
    device: Annotated[str, typer.Option(metavar="NAME")] = "this-machine",
    max_params: Annotated[int | None, typer.Option(help="The child's budget.")] = None,
    name: Annotated[str, typer.Option(help="Name of the run.")] = "my-child",
) -> None:
    """Print a commented starter recipe: `pocketlm new ... > my.toml`."""
    from pocketlm.showing import starter_recipe

    typer.echo(starter_recipe(name, parent, corpus, device=device, max_params=max_params), nl=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from pocketlm.doctor import examine

    findings = examine()
    if as_json:
        _print_json({f.name: {"state": f.state, "text": f.text} for f in findings})
    else:
        for finding in findings:
            typer.echo(f"{finding.state:<8} {finding.name:<18} {finding.text}")
    if any(finding.state == "missing" and finding.name in ("python", "torch", "torchvision")
           for finding in findings):  # fmt: skip
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the `pocketlm` command."""
    _restart_with(PROCESS_SETTINGS)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Do what `arguments` say and return the exit code: errors are one line, no traceback."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # parents are folders: nothing is ever fetched
    try:
        app(arguments, prog_name="pocketlm")
    except SystemExit as done:
        return int(done.code or 0)
    except PocketLMError as error:
        typer.echo(f"pocketlm: {_printable(' '.join(str(error).split()))}", err=True)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _restart_with(settings: Mapping[str, str]) -> None:
    """Start this command again with `settings` in the environment, which libraries read once.

    Only for verbs that compute, only on Linux with glibc, and only where the user set none of them.
    """
    computes = len(sys.argv) > 2 and sys.argv[1] not in ("plan", "show", "new", "doctor")
    if not computes or platform.libc_ver()[0] != "glibc" or settings.keys() & os.environ.keys():
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, **settings})


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted; finished stages are kept, the same command continues")


def _load(path: Path, settings: list[str] | None) -> Any:
    from pocketlm.recipe import load_recipe
    from pocketlm.tables import parse_settings

    return load_recipe(path, changes=parse_settings(settings or []))


def _progress(quiet: bool) -> Progress:
    return SILENT if quiet else RichProgress()


def _write_report(run: Any) -> Path:
    """The run's page; written again only if something was made since."""
    from pocketlm.artifact import write_atomically

    path: Path = run.folder / "report.html"
    if not path.is_file() or path.stat().st_mtime < (run.folder / "run.json").stat().st_mtime:
        from pocketlm.run_report import run_report
        from pocketlm.summary import describe

        write_atomically(path, run_report(describe(run)))
    return path


def _print_run(run: Any) -> None:
    from pocketlm.summary import headline, samples

    typer.echo(f"{'':<18} {'parent':<24} child")
    for quantity, parent, child in headline(run):
        typer.echo(f"{quantity:<18} {parent:<24} {child}")
    texts = samples(run)
    typer.echo(f"\nprompt  {_one_line(texts.pop('prompt'))}")
    for name in sorted(texts, reverse=True):
        typer.echo(f"{name:<7} {_one_line(texts[name])}")


def _flat(run: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "reused": sorted(run.reused),
        **{name: score.value for name, score in run.scores.items()},
    }


def _print_json(table: dict[str, Any]) -> None:
    typer.echo(json.dumps(table, ensure_ascii=False))


def _one_line(text: str, limit: int = 300) -> str:
    flat = _printable(" ".join(text.split()))
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def _printable(text: str) -> str:
    """Without control characters: model text must not drive a terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
