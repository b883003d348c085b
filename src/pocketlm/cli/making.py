"""What the verbs that make share: stages of a recipe made, alone or in a team, and shown."""

from pathlib import Path
from typing import Any

import typer

from pocketlm.cli.options import load, print_json, progress


def up_to(
    stage: str,
    recipe: Path,
    out: Path,
    settings: list[str] | None,
    redo: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from pocketlm.hardware import ranks

    found = load(recipe, settings)
    if ranks().count > 1:
        run = _together(found, recipe, out, settings, redo, quiet)
        if run is None:
            return
    else:
        from pocketlm import pipeline

        run = pipeline.make(found, out=out, until=stage, redo=redo, progress=progress(quiet))
    if as_json:
        print_json(flat(run))
        return
    for name, score in run.artifacts[stage].scores.items():
        typer.echo(f"{name:<28} {score.value:<12.6g} {score.unit}")
    typer.echo(f"\n{stage}  {run.artifacts[stage].folder}")


def _together(
    found: Any, recipe: Path, out: Path, settings: list[str] | None, redo: str | None, quiet: bool
) -> Any:
    import shlex

    from pocketlm.hardware import ranks
    from pocketlm.together import train_together

    changes = [word for setting in settings or [] for word in ("--set", setting)]
    before = shlex.join(["pocketlm", "inherit", str(recipe), "--out", str(out), *changes])
    shown = progress(quiet or ranks().number > 0)
    return train_together(found, out=out, redo=redo, before=before, progress=shown)


def write_report(run: Any) -> Path:
    """The run's page; written again only if something was made since."""
    from pocketlm.artifact import write_atomically

    path: Path = run.folder / "report.html"
    if not path.is_file() or path.stat().st_mtime < (run.folder / "run.json").stat().st_mtime:
        from pocketlm.run_report import run_report
        from pocketlm.summary import describe

        write_atomically(path, run_report(describe(run)))
    return path


def flat(run: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "reused": sorted(run.reused),
        **{name: score.value for name, score in run.scores.items()},
    }
