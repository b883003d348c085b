"""How the shape was chosen: its part of a run's page, and its lines on the screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.report import COLOUR, SERIES, Html, bullets, counted, draw, note, table
from pocketlm.units import show_bytes, show_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class TimedLine:
    """What a shape did on the machine that ranked it: least and median of several rounds."""

    tokens_per_s: float
    """The least of the rounds: what shapes are compared by."""
    tokens_per_s_median: float
    """What one got, other work on the machine included."""
    spread: float
    """Slowest round over the fastest."""
    prompt_tokens: int
    first_token_ms: float
    """From a prompt of `prompt_tokens` to the first new token, the least of the rounds."""
    first_token_ms_median: float
    first_token_spread: float


@dataclass(frozen=True, kw_only=True)
class ShapeLine:
    """A shape that was ranked."""

    shape: str
    layers: int
    params: int
    num_bytes: int
    """Memory while generating, in the recipe's format and context."""
    tokens_per_s: float
    """Predicted."""
    value: float
    """What it was ranked by, in `unit`."""
    unit: str
    why: str
    """What it lost to the first by; empty for the first."""
    timed: TimedLine | None = None


@dataclass(frozen=True, kw_only=True)
class ShapeNotes:
    """What stage 2 has to say."""

    rank: str
    """Name of the ranker."""
    runtime: str
    """What the predictions hold in."""
    num_legal: int
    short_list: Sequence[ShapeLine]
    """Best first."""
    frontier: Sequence[ShapeLine]
    """The best-ranked shape of every depth."""
    excluded: Sequence[str]
    """Why other shapes were no candidates."""


def shape_section(notes: ShapeNotes | None) -> list[Html]:
    """The frontier, the short-list with what each lost by, and what was excluded."""
    if notes is None:
        return []
    rows = [
        [line.shape, line.why or "chosen", show_count(line.params), show_bytes(line.num_bytes),
         show_count(line.tokens_per_s), f"{line.value:.4g} {line.unit}"]
        for line in notes.short_list
    ]  # fmt: skip
    headers = ["shape", "lost by", "parameters", "memory", "tokens/s", "ranked by"]
    parts = [_frontier_plot(notes), table(headers, rows, text_columns=2)]
    parts += _timed_table(notes)
    parts.append(
        note(
            f"{notes.num_legal:,} legal shapes, ordered by {notes.rank}; tokens/s predicted, "
            f"{notes.runtime}. Not candidates:"
        )
    )
    return [*parts, bullets(notes.excluded)]


def shape_lines(notes: ShapeNotes, most: int = 6) -> list[str]:
    """The head of the short-list for a screen."""
    lines = [f"shape: {notes.num_legal:,} legal, ordered by {notes.rank} ({notes.runtime})"]
    for line in notes.short_list[:most]:
        size = f"{show_count(line.params):>6} {show_bytes(line.num_bytes):>8}"
        speed = f"{show_count(line.tokens_per_s):>6} tokens/s"
        lines.append(f"  {line.shape:<66} {size} {speed}  {line.why or 'chosen'}")
    return lines


def _timed_table(notes: ShapeNotes) -> list[Html]:
    """Prefill and decode as they were measured; nothing where nothing was."""
    timed = [(line.shape, line.timed) for line in notes.short_list if line.timed]
    if not timed:
        return []
    rows = [
        [shape, show_count(t.tokens_per_s), show_count(t.tokens_per_s_median), f"{t.spread:.2f}",
         f"{t.first_token_ms:.3g}", f"{t.first_token_ms_median:.3g}", f"{t.first_token_spread:.2f}"]
        for shape, t in timed
    ]  # fmt: skip
    headers = ["timed here", "tokens/s, best", "median", "slowest / fastest",
               "first token ms, best", "median", "slowest / fastest"]  # fmt: skip
    said = (
        f"Random weights, prompts of {timed[0][1].prompt_tokens} tokens. The best round is what "
        "shapes are compared by, since other work only makes one longer; the median is what one "
        "gets on a machine as busy as this one was."
    )
    return [table(headers, rows), note(said)]


def _frontier_plot(notes: ShapeNotes) -> Html:
    """Memory against predicted speed, a dot a depth, its number of layers beside it."""
    points = notes.frontier
    depths = [point.layers for point in points]
    chosen = notes.short_list[0]

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for point in points:
            colour = SERIES[_quarter(point.layers, depths)]
            axes.plot(point.num_bytes, point.tokens_per_s, "o", color=colour, markersize=6)
        for point in _labelled(points):
            axes.annotate(str(point.layers), (point.num_bytes, point.tokens_per_s), fontsize=8,
                          xytext=(5, 3), textcoords="offset points")  # fmt: skip
        axes.plot(chosen.num_bytes, chosen.tokens_per_s, "o", color=COLOUR["ink"], markersize=13,
                  fillstyle="none")  # fmt: skip
        axes.set_xlabel("bytes while generating (number: layers; ring: chosen)")
        axes.set_ylabel("tokens/s, predicted")
        axes.grid(axis="both")
        counted(axes.xaxis)
        counted(axes.yaxis)

    return draw(paint, size=(9.0, 3.6), description="Memory and predicted speed of every depth")


def _quarter(layers: int, depths: Sequence[int]) -> int:
    """0 shallow to 3 deep."""
    span = max(depths) - min(depths)
    return 0 if span == 0 else min(3, 4 * (layers - min(depths)) // span)


def _labelled(points: Sequence[ShapeLine], most: int = 24) -> Sequence[ShapeLine]:
    return points[:: max(1, -(-len(points) // most))]
