"""What `pocketlm show` and `pocketlm new` print: runs, recipes, devices, methods, a starter."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.choices import CHOICES
from pocketlm.device import THIS_MACHINE, list_devices, load_device, predict_decode_tokens_per_s
from pocketlm.errors import RecipeError, did_you_mean
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.cost import count_params
from pocketlm.recipe import Recipe, load_recipe
from pocketlm.run_report.shapes import shape_lines
from pocketlm.run_report.vocabulary import check_lines
from pocketlm.runs import open_run
from pocketlm.summary import as_toml, headline, shape_notes, vocabulary_notes
from pocketlm.tables import Table
from pocketlm.units import MB

if TYPE_CHECKING:
    from pocketlm.stages.design import SpeedModel

_RUNTIMES = ("transformers", "llama.cpp")

Shown = tuple[dict[str, Any], list[str]]


def show(
    what: str,
    *,
    out: Path,
    changes: Mapping[str, Any] | None = None,
    runtime: str = "transformers",
) -> Shown:
    """The object as a JSON table and as lines: `methods`, a device, a recipe file, or a run.

    `runtime`: what this machine's speed is fitted in, `transformers` or `llama.cpp` (at 8 bit).
    """
    if what == "methods":
        return _methods()
    if what in list_devices():
        table, lines = _device(what)
        if what != THIS_MACHINE:
            return table, lines
        fitted, more = fitted_here(runtime)
        return {**table, runtime: fitted}, [*lines, *more]
    if Path(what).suffix == ".toml":
        recipe = load_recipe(what, changes=changes)
        return recipe.model_dump(mode="json"), as_toml(recipe).splitlines()
    try:
        return _run(what, out)
    except RecipeError as error:
        devices = ", ".join(list_devices())
        raise RecipeError(f"{error}; devices: {devices}; or give a .toml, or `methods`") from None


def show_difference(first: str, second: str, *, out: Path) -> Shown:
    """The second run held against the first, paired; raises `RecipeError` for an unknown run."""
    from pocketlm.comparing import compare_runs

    found = compare_runs(open_run(first, out=out), open_run(second, out=out))
    return found.as_dict(), found.lines()


def starter_recipe(
    name: str, parent: str, corpus: str, *, device: str, max_params: int | None
) -> str:
    """A recipe with every key as a comment: its default and its docstring.

    Half of the parent's vocabulary and a third of its parameters (less if the device holds less,
    at 8 bit a weight) are a beginning, not advice. Raises `RecipeError` and `ParentError`.
    """
    shape, profile = open_checkpoint(parent).shape, load_device(device)
    budget = min(count_params(shape) // 3, profile.usable_memory_bytes)
    given: dict[str, Any] = {"name": name, "parent": str(Path(parent).absolute()), "device": device}
    given |= {"max_params": max_params or budget, "vocab_size": shape.vocab_size // 2}
    files = corpus if corpus == "stdlib" else str(Path(corpus).absolute())
    lines = [f"# pocketlm recipe. Run it: pocketlm make {name}.toml"]
    tables = {}
    for key, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            tables[key] = field.annotation
        else:
            lines += _commented(key, field, given)
    for table, model in tables.items():
        lines += ["", f"[{table}]  # {(model.__doc__ or '').splitlines()[0]}"]
        for key, field in model.model_fields.items():
            lines += _commented(key, field, {"files": [files], **given} if key != "name" else {})
    return "\n".join(lines) + "\n"


def _commented(key: str, field: Any, given: Mapping[str, Any]) -> list[str]:
    import json

    text = " ".join((field.description or "").split())
    if key in given:
        return [f"{key} = {json.dumps(given[key])}  # {text}"]
    default = "" if field.default is None else json.dumps(field.default)
    return [f"# {key} = {default}  # {text}"]


def _methods() -> Shown:
    table = {k: {name: m.paper for name, m in v.items()} for k, v in CHOICES.items()}
    lines = []
    for key, entries in CHOICES.items():
        lines.append(key)
        for name, method in entries.items():
            lines.append(f"  {name:<14} {method.says}  ({method.paper})")
    return table, lines


def _device(name: str) -> Shown:
    device = load_device(name)
    table = device.model_dump(mode="json")
    example = 100 * MB
    speed = predict_decode_tokens_per_s(device, example)
    lines = [f"{key:<26} {value}" for key, value in table.items() if key != "sources"]
    lines.append(
        f"{'decode, 100 MB of weights':<26} at most {speed:.0f} tokens/s (bandwidth bound)"
    )
    lines += [f"source: {s.of}: {s.text} ({s.how})" for s in device.sources]
    return table, lines


def fitted_here(runtime: str) -> Shown:
    """This machine's lines of speed in a runtime, and how far they miss shapes not fitted."""
    import numpy as np

    from pocketlm.stages.design import fit_here
    from pocketlm.stages.design.latency import relative_errors
    from pocketlm.steps.runtimes import timed_runtime

    if runtime not in _RUNTIMES:
        known = did_you_mean(runtime, _RUNTIMES)
        raise RecipeError(f"--runtime {runtime}: nothing is timed in it; {known}")
    model, checked = fit_here(np.random.default_rng(0), timed_runtime(runtime, "q8_0"))
    rows = []
    for timing, error in zip(checked, relative_errors(model, checked), strict=True):
        predicted, found = model.tokens_per_s(timing.shape, timing.context), timing.as_dict()
        rows.append(
            {
                "shape": f"{timing.shape.layers} x {timing.shape.hidden}",
                "measured": found["tokens_per_s"],
                "predicted": predicted,
                "error": error,
                **found,
            }
        )
    return {"model": asdict(model), "checked": rows}, _fitted_lines(model, rows)


def _fitted_lines(model: "SpeedModel", rows: Sequence[Mapping[str, Any]]) -> list[str]:
    fixed = f"{1e3 * model.token_s:.2f} ms + {1e6 * model.token_layer_s:.0f} us a layer"
    read = f"{1e9 * model.output_s:.0f} ns an output + {1e12 * model.byte_s:.0f} ps a byte"
    lines = [
        "",
        f"{model.runtime}, {model.weight_format}: {fixed} + {read} for a token",
        f"{'tokens/s':<14} {'best':>9} {'predicted':>9} {'error':>7} {'median':>9} {'spread':>7} "
        f"{'prompt ms':>10} {'median':>9}",
    ]
    lines += [
        f"{row['shape']:<14} {row['measured']:>9.1f} {row['predicted']:>9.1f} "
        f"{row['error']:>+7.1%} {row['tokens_per_s_median']:>9.1f} {row['spread']:>7.2f} "
        f"{row['first_token_ms']:>10.1f} {row['first_token_ms_median']:>9.1f}"
        for row in rows
    ]
    lines.append("best of the rounds: the shape's own cost, fitted; median: this machine, as busy")
    lines.append(f"largest error {model.error:.1%} over {len(rows)} shapes not fitted")
    return lines


def _run(name: str, out: Path) -> Shown:
    run = open_run(name, out=out)
    table = {key: {"value": s.value, "unit": s.unit} for key, s in run.scores.items()}
    lines = [f"{run.name}  {run.folder}"]
    lines += [f"  {stage:<9} {artifact.folder.name}" for stage, artifact in run.artifacts.items()]
    if "evaluate" in run.artifacts:
        lines += ["", f"{'':<18} {'parent':<24} child"]
        lines += [f"{q:<18} {parent:<24} {child}" for q, parent, child in headline(run)]
    if "compact" in run.artifacts:
        lines += ["", *check_lines(vocabulary_notes(run.artifacts["compact"]))]
    notes = shape_notes(run.artifacts["design"]) if "design" in run.artifacts else None
    lines += ["", *shape_lines(notes)] if notes else []
    lines += [""] + [f"{key:<36} {s.value:<12.6g} {s.unit}" for key, s in run.scores.items()]
    return table, lines
