"""How the shape was chosen: its part of a run's page, and its lines on the screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.report import COLOUR, SERIES, Html, bullets, counted, draw, note, table
from pocketlm.units import show_bytes, show_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
