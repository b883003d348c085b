"""The benchmarks of a run on its page: the paper's table with child beside parent, and bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.report import COLOUR, Html, draw, note, table
from pocketlm.run_report.benchmark_notes import BenchmarkNotes, TaskLine
from pocketlm.statistics import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORDS = 2  # leading columns of both tables that hold words
_DASHES = (0, (3, 2))
_NAMES = {
    "ceval": "C-Eval", "cmmlu": "CMMLU", "mmlu": "MMLU", "agieval": "AGI-Eval", "boolq": "BoolQ",
    "axb": "AX-b", "piqa": "PIQA", "eprstmt": "EPRSTMT", "xsum": "XSum", "c3": "C3",
    "blimp": "BLiMP", "arc_e": "ARC-Easy", "arc_c": "ARC-Challenge",
}  # fmt: skip


def benchmark_section(notes: BenchmarkNotes | None) -> list[Html]:
    """Bars, the table like the paper's, bits per byte of the right answers, and what to mind."""
    if notes is None or not notes.tasks:
        return []
    paired = any(line.parent for line in notes.tasks)
    return [
        _bars(notes),
        _scores(notes, paired),
        note(_how(notes, paired)),
        _likelihoods(notes, paired),
        note(
            "Above guessing: the child's accuracy, counted so that guessing is 0 and all right "
            "100, each item by its own number of options."
        ),
        *(note(text) for text in _correlations(notes)),
        *(note(text) for text in _cautions(notes)),
    ]


def _scores(notes: BenchmarkNotes, paired: bool) -> Html:
    header = ["group", "task", "items", "guessing", "majority"]
    header += ["parent", "child", "child - parent", "verdict"] if paired else ["child (95 %)"]
    rows, group = [], ""
    for line in notes.tasks:
        shown = [line.group if line.group != group else "", _name(line.task)]
        shown += [f"{line.num_items:,}", _percent(line.chance), _percent(line.majority)]
        parent = line.parent.score if line.parent else None
        rows.append(shown + _pair(line.child.score, parent, line.difference, line.verdict, paired))
        group = line.group
    for mean in notes.averages:
        shown = ["Average" if mean is notes.averages[0] else "", mean.name, f"{mean.num_items:,}"]
        shown += [_percent(mean.chance), _percent(mean.majority)]
        rows.append(shown + _pair(mean.child, mean.parent, mean.difference, "", paired))
    return table(header, rows, text_columns=_WORDS)


def _pair(
    child: Measured, parent: Measured | None, apart: Measured | None, verdict: str, paired: bool
) -> list[str]:
    if not paired:
        return [f"{_percent(child.value)} {_span(child, 100, '.1f')}"]
    difference = f"{100 * apart.value:+.1f} {_span(apart, 100, '+.1f')}" if apart else "–"
    theirs = _percent(parent.value) if parent else "–"
    return [theirs, _percent(child.value), difference, verdict]


def _likelihoods(notes: BenchmarkNotes, paired: bool) -> Html:
    """Bits per byte of the right answers, and how far the child is above guessing."""
    rows = []
    for line in notes.tasks:
        shown = [_name(line.task), line.asked]
        if paired:
            apart = line.bits_difference
            shown += [
                f"{line.parent.bits_per_byte.value:.3f}" if line.parent else "–",
                f"{line.child.bits_per_byte.value:.3f}",
                f"{apart.value:+.4f} {_span(apart, 1, '+.4f')}" if apart else "–",
                line.bits_verdict,
            ]
        else:
            own = line.child.bits_per_byte
            shown.append(f"{own.value:.3f} {_span(own, 1, '.3f')}")
        corrected = line.child.corrected
        rows.append([*shown, f"{100 * corrected.value:+.1f}" if corrected else ""])
    names = ["parent", "child", "child - parent", "verdict"] if paired else ["child (95 %)"]
    header = ["bits per byte of answers", "asked as", *names, "above guessing"]
    return table(header, rows, text_columns=_WORDS)


def _correlations(notes: BenchmarkNotes) -> list[str]:
    """The official number of tasks whose answers are two classes (AX-b)."""
    return [
        f"{_name(line.task)}, Matthews correlation of chosen and right, child: "
        f"{line.child.mcc.value:+.3f} {_span(line.child.mcc, 1, '+.3f')}."
        for line in notes.tasks
        if line.child.mcc
    ]


def _how(notes: BenchmarkNotes, paired: bool) -> str:
    told = (
        "In percent: accuracy, ROUGE-1 for what is written (XSum). Examinations are means over "
        "subjects, as in the paper's table; 95 % intervals: Wilson, clustered where questions "
        "share a passage, bootstrap for ROUGE. Guessing: a random choice; majority: always the "
        f"place that is right most often. Answers chosen under the normaliser {notes.normaliser!r}."
    )
    if paired:
        told += " Verdicts are paired by item, at 5 % with Holm over the tasks."
    if notes.missing:
        missing = ", ".join(_name(task) for task in notes.missing)
        told += f" Not run, so the mean is not the paper's: {missing}."
    return told


def _cautions(notes: BenchmarkNotes) -> list[str]:
    cut, seams, ties = (
        [(line, getattr(line.child, key)) for line in notes.tasks if getattr(line.child, key)]
        for key in ("contexts_cut", "seams", "near_ties")
    )
    return [
        f"Items whose context lost its beginning, child: {_counted(cut)}.",
        f"Choices whose first token would swallow the end of the context ({notes.seam}), child: "
        f"{_counted(seams)}.",
        f"Near ties, which rounding could turn, child: {_counted(ties)}.",
    ]


def _counted(counts: Sequence[tuple[TaskLine, int]]) -> str:
    told = [f"{_name(line.task)} {count:,}" for line, count in counts]
    return ", ".join(told) or "none"


def _bars(notes: BenchmarkNotes) -> Html:
    """A bar a model with its interval; dashed: guessing."""

    def paint(figure: "Figure") -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        axes = figure.subplots()
        for row, line in enumerate(notes.tasks):
            _paint_task(axes, row, line)
        axes.set_yticks(range(len(notes.tasks)), [_name(line.task) for line in notes.tasks])
        axes.set_ylim(len(notes.tasks) - 0.45, -0.55)
        for row, (line, after) in enumerate(zip(notes.tasks, notes.tasks[1:], strict=False)):
            if line.group != after.group:
                axes.axhline(row + 0.5, color=COLOUR["line"], linewidth=0.8, zorder=0)
        axes.set_xlim(left=0)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("% right, or ROUGE-1")
        handles: list[Any] = [Patch(color=COLOUR["s1"], label="child")]
        if any(line.parent for line in notes.tasks):
            handles.append(Patch(color=COLOUR["s5"], label="parent"))
        handles.append(Line2D([], [], color=COLOUR["s6"], linestyle=_DASHES, label="guessing"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=9)

    size = (9.0, 1.2 + 0.46 * len(notes.tasks))
    return draw(paint, size=size, description="Benchmark scores with intervals, chance dashed")


def _paint_task(axes: "Axes", row: int, line: TaskLine) -> None:
    sides = [(line.child.score, COLOUR["s1"])]
    if line.parent is not None:
        sides.append((line.parent.score, COLOUR["s5"]))
    height = 0.72 / len(sides)
    for place, (score, colour) in enumerate(sides):
        at = row + (place - (len(sides) - 1) / 2) * height
        axes.barh(at, 100 * score.value, height=0.88 * height, color=colour)
        if score.low is not None and score.high is not None:
            ends = (100 * score.low, 100 * score.high)
            axes.plot(ends, (at, at), color=COLOUR["ink"], linewidth=1.3, marker="|", markersize=5)
    if line.chance > 0:
        axes.plot((100 * line.chance,) * 2, (row - 0.44, row + 0.44), color=COLOUR["s6"],
                  linewidth=1.5, linestyle=_DASHES)  # fmt: skip


def _name(task: str) -> str:
    return _NAMES.get(task, task)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _span(found: Measured, scale: float, form: str) -> str:
    if found.low is None or found.high is None:
        return "(no interval)"
    return f"({scale * found.low:{form}} to {scale * found.high:{form}})"
