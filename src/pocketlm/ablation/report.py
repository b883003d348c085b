"""The report of a study: the same numbers as Markdown, SVG, one offline HTML page, and JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pocketlm.ablation.forest import forest_plot
from pocketlm.ablation.statistics import seeds_needed
from pocketlm.ablation.study import BASELINE, Study
from pocketlm.ablation.summary import Arm, Comparison
from pocketlm.artifact import write_atomically
from pocketlm.report import Html, Section, bullets, lead, note, page, paragraph, stand_alone, table
from pocketlm.units import show_count, show_seconds

_WORDS = 2  # leading columns of both tables that hold words, not numbers


def write_report(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write comparison.md, .svg, .html and .json into `folder`, each whole or not at all.

    Returns where they are, under `markdown`, `svg`, `html` and `json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot = forest_plot(comparison)
    written = {
        "svg": (folder / "comparison.svg", stand_alone(plot)),
        "markdown": (folder / "comparison.md", markdown(comparison)),
        "html": (folder / "comparison.html", _html(comparison, plot)),
        "json": (folder / "comparison.json", json.dumps(numbers(comparison), indent=1) + "\n"),
    }
    for path, text in written.values():
        write_atomically(path, text)
    return {name: path for name, (path, _) in written.items()}


def sentences(comparison: Comparison) -> list[str]:
    """The answer, one sentence an arm."""
    study = comparison.study
    return [_sentence(study, comparison.unit, arm) for arm in comparison.arms[1:]]


def markdown(comparison: Comparison) -> str:
    """Question, answer, table and plot as Markdown; the plot is the file beside it."""
    study = comparison.study
    answer = [f"- {sentence}" for sentence in sentences(comparison)]
    failures = [f"- {failure}" for failure in _failures(comparison)]
    blocks = [
        f"# {study.name}",
        study.question,
        "\n".join(answer),
        _grid(_answers(comparison)),
        _score(comparison),
        "![differences from the baseline](comparison.svg)",
        _grid(_details(comparison)),
        *(["## Failed runs", "\n".join(failures)] if failures else []),
        _method(comparison),
    ]
    return "\n\n".join(blocks) + "\n"


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Everything the report shows as flat rows, full precision; what is not known is absent."""
    study = comparison.study
    return {
        "study": study.name,
        "question": study.question,
        "score": study.score,
        "unit": comparison.unit,
        "better": study.better,
        "alpha": study.alpha,
        "arms": [
            {key: value for key, value in _row(study, arm) if value is not None}
            for arm in comparison.arms
        ],
    }


def _row(study: Study, arm: Arm) -> Iterator[tuple[str, Any]]:
    yield from (("arm", arm.name), ("verdict", arm.verdict), ("mean", arm.mean))
    if arm.difference is not None:
        difference = arm.difference
        yield from (("num_seeds", difference.num_seeds), ("delta", difference.mean))
        yield from (("sd", difference.sd), ("low", difference.low), ("high", difference.high))
        yield from (("p", difference.p), ("p_holm", arm.p_holm), ("smallest", difference.smallest))
        yield ("seeds_needed", seeds_needed(difference, alpha=study.alpha / len(study.arms)))
    if arm.documents is not None:
        yield from (("documents_low", arm.documents[0]), ("documents_high", arm.documents[1]))
    yield from (("params", arm.params), ("seconds", arm.seconds))
    yield from ((f"seed.{seed}", value) for seed, value in arm.values.items())


def _answers(comparison: Comparison) -> list[list[str]]:
    """Header and a row an arm: what was decided and on what grounds."""
    header = ["arm", "verdict", "score", "difference", f"{_level(comparison)} over seeds",
              "p (Holm)", "parameters", "time"]  # fmt: skip
    return [header, *(_answer(arm) for arm in comparison.arms)]


def _answer(arm: Arm) -> list[str]:
    difference = arm.difference
    return [
        arm.name,
        arm.verdict or "",
        "" if arm.mean is None else _number(arm.mean),
        "" if difference is None else f"{difference.mean:+.4g}",
        _span((difference.low, difference.high)) if difference else "",
        "" if arm.p_holm is None else _p(arm.p_holm),
        "" if arm.params is None else show_count(arm.params),
        show_seconds(arm.seconds),
    ]


def _details(comparison: Comparison) -> list[list[str]]:
    """Header and a row an arm: what was changed, and every single score."""
    study = comparison.study
    seeds = [f"seed {seed}" for seed in study.seeds]
    rows = [
        [
            arm.name,
            _change(study, arm.name),
            _span(arm.documents),
            *(_number(arm.values[seed]) if seed in arm.values else "" for seed in study.seeds),
        ]
        for arm in comparison.arms
    ]
    return [["arm", "change", f"{_level(comparison)} over documents", *seeds], *rows]


def _html(comparison: Comparison, plot: Html) -> str:
    study = comparison.study
    failures = _failures(comparison)
    answers, details = _answers(comparison), _details(comparison)
    sections = [
        Section("Answer", [lead(study.question), bullets(sentences(comparison))]),
        Section("Differences from the baseline", [
            plot,
            note("Dot and line: mean and interval over seeds. Broad grey bar: interval over "
                 "documents. Green is better, red worse, grey not resolvable."),
        ]),
        Section("Arms", [
            table(answers[0], answers[1:], text_columns=_WORDS),
            note(_score(comparison)),
        ]),
        Section("Changes and single scores", [
            table(details[0], details[1:], text_columns=_WORDS),
        ]),
        *([Section("Failed runs", [bullets(failures)])] if failures else []),
        Section("How to read this", [paragraph(_method(comparison))]),
    ]  # fmt: skip
    return page(study.name, sections)


def _sentence(study: Study, unit: str, arm: Arm) -> str:
    difference = arm.difference
    if difference is None:
        reason = arm.errors[0] if arm.errors else "no seed ran both here and for the baseline"
        return f"{arm.name} failed: {reason}."
    amount = f"{difference.mean:+.4g} {unit}".rstrip()
    if difference.low is None:
        span = f" ({_span(arm.documents)} over documents)" if arm.documents else ""
        return f"{arm.name} is {arm.verdict}: {amount}{span}; two seeds at least can tell."
    p = _p(arm.p_holm or 0.0)
    shown = f"{amount} ({_span((difference.low, difference.high))} over seeds, Holm p {p})"
    if arm.verdict != "not resolvable":
        return f"{arm.name} is {arm.verdict}: {shown}."
    needed = seeds_needed(difference, alpha=study.alpha / len(study.arms))
    more = f"about {needed} seeds would tell" if needed else "no affordable number of seeds would"
    limit = f"{difference.num_seeds} seeds find {difference.smallest:.4g} or more"
    return f"{arm.name} is not resolvable: {shown}; {limit}, {more}."


def _method(comparison: Comparison) -> str:
    study = comparison.study
    return (
        f"Baseline: {Path(study.base).name}, seeds {', '.join(map(str, study.seeds))}. Each arm is "
        f"compared with the baseline seed by seed (paired t). A verdict needs Holm's p below "
        f"{study.alpha:g}, arms counted: {len(study.arms)}; the intervals are for one arm alone. "
        f"The one over documents speaks of these models on other text, not of other seeds. Time is "
        f"what an arm added: stages it shares are paid by the arm that came first."
    )


def _grid(rows: list[list[str]]) -> str:
    rule = ["---"] * _WORDS + ["---:"] * (len(rows[0]) - _WORDS)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [rows[0], rule, *rows[1:]]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _score(comparison: Comparison) -> str:
    study = comparison.study
    unit = f" in {comparison.unit}" if comparison.unit else ""
    return f"Score: {study.score}{unit}, mean over seeds; {study.better} is better."


def _level(comparison: Comparison) -> str:
    return f"{100 * (1 - comparison.study.alpha):g} %"


def _failures(comparison: Comparison) -> list[str]:
    return [f"{arm.name}, {error}" for arm in comparison.arms for error in arm.errors]


def _change(study: Study, arm: str) -> str:
    if arm == BASELINE:
        return ""
    patch = study.arms[arm].items()
    return ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in patch)


def _span(interval: tuple[float | None, float | None] | None) -> str:
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    return f"{interval[0]:+.4g} to {interval[1]:+.4g}"


def _number(score: float) -> str:
    return f"{score:,.0f}" if abs(score) >= 1e5 else f"{score:#.5g}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
