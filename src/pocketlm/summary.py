"""What a run has to say, gathered from its artifacts: the report's data and the screen's table."""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pocketlm.artifact import Artifact, Score
from pocketlm.errors import DamagedArtifact
from pocketlm.model.cost import params_by_part
from pocketlm.model.shape import Shape
from pocketlm.recipe import Recipe
from pocketlm.run_report import (
    ExportedFile,
    Interval,
    LossPoint,
    RunReport,
    Side,
    StageLine,
)
from pocketlm.run_report.benchmark_notes import BenchmarkNotes, read_benchmarks
from pocketlm.run_report.forgetting import ForgettingNotes, PartCurve
from pocketlm.run_report.shapes import ShapeLine, ShapeNotes, TimedLine
from pocketlm.run_report.vocabulary import CoveragePoint, VocabularyNotes
from pocketlm.runs import Run
from pocketlm.units import show_bytes, show_count

Row = tuple[str, str, str]


def describe(run: Run) -> RunReport:
    """Everything the report of a finished run shows."""
    made, scores = run.artifacts, run.scores
    log = _log(made["train"])
    samples = _read(made["evaluate"], "samples.json")
    parent = None
    if "parent.params" in scores:
        vocab = int(scores["compact.parent_vocab_size"].value)
        parent = _side("parent", scores, vocab, _parent_parts(run), samples)
    parts = {part: int(scores[f"design.{part}.params"].value) for part in _parts_of(scores)}
    child_vocab = int(scores["compact.vocab_size"].value)
    return RunReport(
        name=run.name,
        lineage=_lineage(run),
        child=_side("child", scores, child_vocab, parts, samples),
        parent=parent,
        difference=_interval("difference.bits_per_byte", scores),
        benchmarks=benchmark_notes(made["evaluate"]),
        curve=tuple(CoveragePoint(**point) for point in _read(made["compact"], "curve.json")),
        vocabulary=vocabulary_notes(made["compact"]),
        shapes=shape_notes(made["design"]),
        losses=tuple(LossPoint(int(r["tokens"]), r["loss"], r["rate"]) for r in log if "loss" in r),
        round_starts=_round_starts(log),
        forgetting=forgetting_notes(made["train"]),
        exported=tuple(
            ExportedFile(
                f["format"],
                f["num_bytes"],
                f["verified"],
                {check["name"]: check["value"] for check in f["checks"]},
            )
            for f in _read(made["export"], "files.json")
        ),
        prompt=_read(made["evaluate"], "prompt.json"),
        stages=tuple(
            StageLine(stage, a.manifest["seconds"], a.key, stage in run.reused)
            for stage, a in made.items()
        ),
        recipe_toml=as_toml(run.recipe),
    )


def shape_notes(artifact: Artifact) -> ShapeNotes | None:
    """What a design artifact says about its ranking; None where the shape was given."""
    if not artifact.path("ranking.json").is_file():
        return None
    found = _read(artifact, "ranking.json")
    for key in ("short_list", "frontier"):
        found[key] = [_shape_line(line) for line in found[key]]
    return ShapeNotes(**found)


def _shape_line(line: dict[str, Any]) -> ShapeLine:
    timed = line.pop("timed", None)
    return ShapeLine(**line, timed=TimedLine(**timed) if timed else None)


def benchmark_notes(artifact: Artifact) -> BenchmarkNotes | None:
    """What an evaluate artifact says about benchmarks; None where none were run."""
    path = artifact.path("benchmarks.json")
    return read_benchmarks(_read(artifact, path.name), str(path)) if path.is_file() else None


def forgetting_notes(artifact: Artifact) -> ForgettingNotes | None:
    """What a train artifact says about its probed parts; None where there were none."""
    if not artifact.path("probes.json").is_file():
        return None
    found = _read(artifact, "probes.json")
    rows = found["rows"]
    tokens = {row["step"]: int(row["tokens"]) for row in rows}
    parts = [
        PartCurve(tokens[step], [row[f"part_{number}"] for row in rows])
        for number, step in enumerate(found["part_steps"], start=1)
    ]
    yardstick = [row["yardstick"] for row in rows]
    return ForgettingNotes(list(tokens.values()), yardstick, parts) if parts else None


def vocabulary_notes(artifact: Artifact) -> VocabularyNotes:
    """What a compact artifact says about itself."""
    notes, law = _read(artifact, "notes.json"), artifact.scores.get("law_vocab_size")
    checks = _read(artifact, "checks.json")
    return VocabularyNotes(
        reason=notes["size"],
        law_size=None if law is None else int(law.value),
        warnings=notes["warnings"],
        provenance=dict(Counter(_read(artifact, "provenance.json")).most_common()),
        checks=[(c["name"], c["passed"], c["tried"], c["note"]) for c in checks],
    )


def headline(run: Run) -> list[Row]:
    """Rows of quantity, parent, child: what the screen shows at the end of `make`."""
    scores = run.scores

    def with_parent(name: str) -> str:
        return _one(scores, name, show_count) if "parent.params" in scores else ""

    rows = [
        ("parameters", _one(scores, "parent.params", show_count),
         _one(scores, "child.params", show_count)),
        ("bytes at 16 bit", _one(scores, "parent.bytes", show_bytes),
         _one(scores, "child.bytes", show_bytes)),
        ("vocabulary", with_parent("compact.parent_vocab_size"),
         _one(scores, "compact.vocab_size", show_count)),
        ("bits per byte", _with_range(scores, "parent.bits_per_byte"),
         _with_range(scores, "child.bits_per_byte")),
        ("  child - parent", "", _with_range(scores, "difference.bits_per_byte", sign=True)),
        ("prefill tokens/s", _one(scores, "parent.prefill_tokens_per_s", show_count),
         _one(scores, "child.prefill_tokens_per_s", show_count)),
        ("decode tokens/s", _one(scores, "parent.decode_tokens_per_s", show_count),
         _one(scores, "child.decode_tokens_per_s", show_count)),
    ]  # fmt: skip
    unknown = scores.get("child.unknown_share")
    if unknown and unknown.value > 0:
        own = _one(scores, "parent.unknown_share", lambda v: f"{v:.2%}")
        rows.append(("text lost to <unk>", own, f"{unknown.value:.2%}"))
    return [row for row in rows if row[1] or row[2]]


def result_lines(run: Run) -> list[str]:
    """What `make` prints: parent against child, then what each writes."""
    lines = [f"{'':<18} {'parent':<24} child"]
    lines += [f"{quantity:<18} {parent:<24} {child}" for quantity, parent, child in headline(run)]
    texts = samples(run)
    lines += ["", f"prompt  {_one_line(texts.pop('prompt'))}"]
    return lines + [f"{name:<7} {_one_line(texts[name])}" for name in sorted(texts, reverse=True)]


def samples(run: Run) -> dict[str, str]:
    """The prompt under `prompt`, then each model's continuation by its name."""
    made = run.artifacts["evaluate"]
    return {"prompt": _read(made, "prompt.json"), **_read(made, "samples.json")}


def as_toml(recipe: Recipe) -> str:
    """The complete recipe, defaults included, as TOML."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    flat = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" for key, value in flat.items()]
    for name, inner in table.items():
        if isinstance(inner, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in inner.items())]
    return "\n".join(lines) + "\n"


def _one_line(text: str, limit: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = (f"{_toml_key(key)} = {_toml(v)}" for key, v in value.items())
        return "{ " + ", ".join(inner) + " }"
    return json.dumps(value, ensure_ascii=False)  # numbers, text, booleans and lists read alike


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def _side(
    who: str,
    scores: Mapping[str, Score],
    vocab_size: int,
    parts: Mapping[str, int],
    samples: Mapping[str, str],
) -> Side:
    return Side(
        params=int(scores[f"{who}.params"].value),
        num_bytes=int(scores[f"{who}.bytes"].value),
        vocab_size=vocab_size,
        tokens_per_byte=scores[f"{who}.tokens_per_byte"].value,
        bits_per_byte=_interval(f"{who}.bits_per_byte", scores),
        prefill_tokens_per_s=_value(scores, f"{who}.prefill_tokens_per_s"),
        decode_tokens_per_s=_value(scores, f"{who}.decode_tokens_per_s"),
        params_by_part=parts,
        sample=samples.get(who, ""),
    )


def _lineage(run: Run) -> list[str]:
    shape = Shape(**_read(run.artifacts["design"], "shape.json"))
    source = run.recipe.parent_name or "none, random weights"
    corpus = ", ".join(Path(pattern).name for pattern in run.recipe.corpus.files)
    versions = run.artifacts["train"].manifest["versions"]
    return [
        f"parent: {source}",
        f"child: {shape}",
        f"start: {run.recipe.start}; {run.recipe.train.rounds} rounds on {corpus}",
        f"meant for: {run.recipe.device}",
        "made with " + ", ".join(f"{name} {number}" for name, number in versions.items()),
    ]


def _parent_parts(run: Run) -> dict[str, int]:
    shape = _read(run.artifacts["design"], "parent_shape.json")
    return {str(k): n for k, n in params_by_part(Shape(**shape)).items()} if shape else {}


def _parts_of(scores: Mapping[str, Score]) -> list[str]:
    names = [name.split(".") for name in scores if name.startswith("design.")]
    return [name[1] for name in names if len(name) == 3 and name[2] == "params"]


def _round_starts(log: list[dict[str, float]]) -> tuple[int, ...]:
    return tuple(
        int(before["tokens"]) for before, row in pairwise(log) if row["round"] > before["round"]
    )


def _interval(name: str, scores: Mapping[str, Score]) -> Interval | None:
    if name not in scores:
        return None
    low, high = (_value(scores, f"{name}{end}") for end in ("_low", "_high"))
    return Interval(scores[name].value, low, high)


def _value(scores: Mapping[str, Score], name: str) -> float | None:
    return scores[name].value if name in scores else None


def _one(scores: Mapping[str, Score], name: str, show: Any) -> str:
    return show(scores[name].value) if name in scores else ""


def _with_range(scores: Mapping[str, Score], name: str, *, sign: bool = False) -> str:
    found = _interval(name, scores)
    if found is None:
        return ""
    form = "+.3f" if sign else ".3f"
    if found.low is None or found.high is None:  # one document has no spread
        return f"{found.value:{form}}"
    return f"{found.value:{form}}  [{found.low:{form}}, {found.high:{form}}]"


def _read(artifact: Artifact, name: str) -> Any:
    try:
        return json.loads(artifact.path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedArtifact(f"{artifact.path(name)}: cannot be read ({error})") from None


def _log(artifact: Artifact) -> list[dict[str, Any]]:
    """Rows of training; one JSON list in artifacts older than log.jsonl."""
    path = artifact.path("log.jsonl")
    if not path.is_file():
        return list(_read(artifact, "log.json"))
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DamagedArtifact(f"{path}: cannot be read ({error})") from None
