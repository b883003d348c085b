"""The delivered files: their part of a run's page, one table and what pays for what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketlm.report import COLOUR, SERIES, Html, counted, draw, note, side_by_side, table
from pocketlm.units import show_bytes, show_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ExportedFile:
    """A delivered format, its bytes, the line of its verification, and what it was scored at."""

    format: str
    num_bytes: int
    verified: str
    quality: Mapping[str, float] = field(default_factory=dict)
    """Name of a check of export (`bits_per_byte`, `decode_tokens_per_s`, ...) -> its value."""


# Check -> head of its column, how it is shown.
_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "bits_per_byte": ("bits per byte", "{:.4f}".format),
    "bits_per_byte_loss_pct": ("loss, %", "{:+.2f}".format),
    "load_s": ("load, s", "{:.2f}".format),
    "peak_bytes": ("memory", lambda value: show_bytes(int(value))),
    "prefill_tokens_per_s": ("prefill, tokens/s", show_count),
    "decode_tokens_per_s": ("decode, tokens/s", show_count),
    "predicted_tokens_per_s": ("predicted", show_count),
}


def files_section(files: Sequence[ExportedFile]) -> list[Html]:
    """The table, and bits per byte against bytes and against speed where there are two files."""
    if not files:
        return []
    columns = {
        key: column
        for key, column in _COLUMNS.items()
        if any(key in file.quality for file in files)
    }
    rows = [
        [file.format, show_bytes(file.num_bytes)]
        + [show(file.quality[key]) if key in file.quality else "–"
           for key, (_, show) in columns.items()]
        for file in files
    ]  # fmt: skip
    heads = ["format", "size", *(head for head, _ in columns.values())]
    proofs = table(["format", "verified"], [[f.format, f.verified] for f in files], text_columns=2)
    parts = [table(heads, rows), *_explained(columns), proofs]
    return [*parts[:2], *_plots(files), *parts[2:]]


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, quality), the smaller the better, no other beats in both; cheapest first."""
    kept: list[int] = []
    for at in sorted(range(len(points)), key=points.__getitem__):
        if not kept or points[at][1] < points[kept[-1]][1]:
            kept.append(at)
    return kept


def _explained(columns: Mapping[str, object]) -> list[Html]:
    if not columns:
        return []
    return [
        note(
            "Bits per byte of held-out text: of a gguf file's numbers put back into the network, "
            "since the runtime gives no logits of a text. Speed, load time and memory here, one "
            "thread, one sequence, the best of three rounds. Predicted: decode on the recipe's "
            "device, an upper bound wherever weights do not fit a cache."
        )
    ]


def _plots(files: Sequence[ExportedFile]) -> list[Html]:
    scored = [file for file in files if "bits_per_byte" in file.quality]
    timed = [file for file in scored if "decode_tokens_per_s" in file.quality]
    plots = []
    if len(scored) > 1:
        sizes = [(float(file.num_bytes), file.quality["bits_per_byte"]) for file in scored]
        plots.append(("Size", _pareto(scored, sizes, "bytes on disk")))
    if len(timed) > 1:
        # Smaller is better on both axes: seconds a token.
        speeds = [
            (1e3 / file.quality["decode_tokens_per_s"], file.quality["bits_per_byte"])
            for file in timed
        ]
        plots.append(("Speed", _pareto(timed, speeds, "milliseconds a new token")))
    return [side_by_side(plots)] if plots else []


def _pareto(
    files: Sequence[ExportedFile], points: Sequence[tuple[float, float]], x_label: str
) -> Html:
    best = frontier(points)

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot([points[at][0] for at in best], [points[at][1] for at in best], "-",
                  color=COLOUR["line"], zorder=0)  # fmt: skip
        for at, (file, (x, y)) in enumerate(zip(files, points, strict=True)):
            _dot(axes, file.format, x, y, best=at in best)
        axes.margins(x=0.15, y=0.15)
        axes.set_xlabel(x_label)
        axes.set_ylabel("bits per byte")
        axes.grid(axis="both")
        counted(axes.xaxis)

    said = f"Bits per byte against {x_label}; joined: no other file is better in both"
    return draw(paint, size=(5.4, 3.1), description=said)


def _dot(axes: "Axes", name: str, x: float, y: float, *, best: bool) -> None:
    axes.plot(x, y, "o", color=SERIES[0] if best else COLOUR["muted"], markersize=6)
    axes.annotate(name.removeprefix("gguf-"), (x, y), fontsize=8, xytext=(5, 3),
                  textcoords="offset points")  # fmt: skip
