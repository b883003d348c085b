"""One offline HTML page and its plots: what the report of a run and of a study share.

Plots are inline SVG whose colours are CSS variables, so one drawing serves light, dark and paper.
Every text is escaped here; `Html` marks what already is. Nothing on a page is fetched.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NewType

from pocketlm.units import show_count

if TYPE_CHECKING:  # drawing takes most of a second to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Html = NewType("Html", str)
"""Markup whose texts are escaped."""

# matplotlib wants colours, the page wants variables: each colour here is a name for a variable.
_LIGHT = {
    "ink": "#1b1f24", "muted": "#5b636e", "line": "#d9dde3", "card": "#f5f6f8",
    "paper": "#ffffff", "on": "#ffffff",
    "s1": "#1f6fd0", "s2": "#b4550a", "s3": "#16794c", "s4": "#7446c4", "s5": "#6a727d",
    "s6": "#b92b4a",
}  # fmt: skip
_DARK = {
    "ink": "#e7eaee", "muted": "#9ca5b1", "line": "#343a43", "card": "#1d2127",
    "paper": "#14171b", "on": "#101317",
    "s1": "#67a9f5", "s2": "#f0a05a", "s3": "#58c793", "s4": "#b79bf3", "s5": "#98a1ad",
    "s6": "#f2798f",
}  # fmt: skip
COLOUR = {name: f"#0a0b{number:02x}" for number, name in enumerate(_LIGHT)}
"""Colours to draw with, by role: ink, muted, line, paper, on (text on a series), s1 to s6."""
SERIES = tuple(COLOUR[f"s{number}"] for number in range(1, 7))


@dataclass(frozen=True)
class Section:
    """A headed part of a page."""

    title: str
    body: Sequence[Html]


@dataclass(frozen=True)
class Line:
    """One line of a plot: equally many x and y."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def page(title: str, sections: Sequence[Section]) -> str:
    """A whole HTML file: no script, no request (its own policy forbids both), printable."""
    parts = [
        f"<section><h2>{escape(section.title)}</h2>\n{''.join(section.body)}</section>"
        for section in sections
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_variables(':root')}{_CSS}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> Html:
    """A table: the first `text_columns` columns are words, the others numbers, right-aligned."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{"word" if column < text_columns else "number"}">{escape(cell)}</{tag}>'
            for column, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return Html(
        f'<div class="wide"><table><thead><tr>{cells(headers, "th")}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def lead(text: str) -> Html:
    """The sentence a reader should take away."""
    return Html(f'<p class="lead">{escape(text)}</p>\n')


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return Html(f"<p>{escape(text)}</p>\n")


def note(text: str) -> Html:
    """Small print: how a number was made."""
    return Html(f'<p class="note">{escape(text)}</p>\n')


def bullets(texts: Sequence[str]) -> Html:
    """A list of plain texts; nothing if there are none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return Html(f"<ul>{items}</ul>\n" if items else "")


def preformatted(text: str) -> Html:
    """Text with its line ends, wrapped where it is too long."""
    return Html(f"<pre>{escape(text)}</pre>\n")


def side_by_side(blocks: Sequence[tuple[str, Html]]) -> Html:
    """Captioned blocks next to each other where the window is wide enough."""
    figures = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{block}</figure>"
        for caption, block in blocks
    )
    return Html(f'<div class="grid">{figures}</div>\n')


def line_plot(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    description: str,
    marks: Mapping[str, float] | None = None,
    size: tuple[float, float] = (5.4, 3.1),
) -> Html:
    """Lines over one x axis, as SVG; `marks` are dashed verticals with a name, `size` in inches."""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for line, colour in zip(lines, SERIES, strict=False):
            marker = "o" if len(line.x) <= 12 else ""
            axes.plot(line.x, line.y, color=colour, label=line.label, marker=marker, markersize=4)
        axes.grid(axis="y")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        counted(axes.xaxis)
        counted(axes.yaxis)
        _mark(axes, marks or {})
        if len(lines) > 1:
            axes.legend()

    return draw(paint, size=size, description=description)


def bar_plot(bars: Mapping[str, Mapping[str, float]], *, x_label: str, description: str) -> Html:
    """Stacked horizontal bars, first on top: name -> part -> length. At most six parts."""
    parts = list(dict.fromkeys(part for lengths in bars.values() for part in lengths))
    longest = max(sum(lengths.values()) for lengths in bars.values())

    def paint(figure: "Figure") -> None:
        from matplotlib.patches import Patch

        axes = figure.subplots()
        for row, lengths in enumerate(bars.values()):
            left = 0.0
            for part, colour in zip(parts, SERIES, strict=False):
                width = lengths.get(part, 0.0)
                axes.barh(row, width, left=left, color=colour, height=0.62)
                if width > 0.07 * longest:  # narrower ones have no room for a number
                    axes.text(left + width / 2, row, show_count(width), color=COLOUR["on"],
                              ha="center", va="center", fontsize=9)  # fmt: skip
                left += width
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        counted(axes.xaxis)
        handles = [Patch(color=c, label=p) for p, c in zip(parts, SERIES, strict=False)]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(parts), fontsize=9)

    return draw(paint, size=(9.0, 1.3 + 0.5 * len(bars)), description=description)


def draw(paint: Callable[["Figure"], None], *, size: tuple[float, float], description: str) -> Html:
    """Let `paint` fill a figure of `size` inches and return it as SVG for a page.

    The same drawing gives the same bytes. `description` is what a screen reader says.
    """
    import matplotlib
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's font draws the text; matplotlib's own only measures it.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), description)


def stand_alone(svg: Html) -> str:
    """The SVG of a plot as a file of its own, with the colours it otherwise takes from a page."""
    style = f"<style>{_variables('svg')}svg{{background:var(--paper)}}</style>"
    return svg.replace(">", f' xmlns="http://www.w3.org/2000/svg">{style}', 1)


def counted(axis: Any) -> None:
    """Tick labels of a matplotlib axis as `12.5k`."""
    axis.set_major_formatter(lambda value, _: show_count(float(value)))


def _mark(axes: "Axes", marks: Mapping[str, float]) -> None:
    for name, x in marks.items():
        axes.axvline(x, color=COLOUR["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            name, (x, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), fontsize=9,
            textcoords="offset points", color=COLOUR["muted"], va="top", rotation=90,
        )  # fmt: skip


def _inline(svg: str, description: str) -> Html:
    """Only the drawing: no prologue, no names that two plots of a page would share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for name, colour in COLOUR.items():
        svg = svg.replace(colour, f"var(--{name})")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    width = float(box[1].split()[2]) * 4 / 3  # points to CSS pixels
    opening = (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="{box[1]}" '
        f'style="max-width: {width:.0f}px; min-width: {0.6 * width:.0f}px">'
    )
    return Html(opening + svg[svg.index(">") + 1 :])


def _variables(selector: str) -> str:
    def rule(colours: Mapping[str, str]) -> str:
        return f"{selector}{{{';'.join(f'--{name}:{value}' for name, value in colours.items())}}}"

    return f"{rule(_LIGHT)}@media screen and (prefers-color-scheme: dark){{{rule(_DARK)}}}"


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, in the reader's own font
    "svg.hashsalt": "pocketlm",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 10,
    "text.color": COLOUR["ink"],
    "axes.edgecolor": COLOUR["line"],
    "axes.labelcolor": COLOUR["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": COLOUR["line"],
    "ytick.color": COLOUR["line"],
    "xtick.labelcolor": COLOUR["muted"],
    "ytick.labelcolor": COLOUR["muted"],
    "grid.color": COLOUR["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}

_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 1.5rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.75rem 0 .75rem;padding-bottom:.35rem;
border-bottom:1px solid var(--line)}
section{overflow-x:auto}
section:first-of-type h2{margin-top:0}
p{margin:.6rem 0;max-width:46rem}
.lead{font-size:1.15rem;line-height:1.45;border-left:3px solid var(--s1);padding-left:.9rem;
margin:1rem 0 1.25rem}
.note,figcaption{color:var(--muted);font-size:.85rem}
ul{padding-left:1.2rem;margin:.6rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--muted);vertical-align:bottom}
th,td{padding:.42rem .7rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{padding-left:0}
.word{text-align:left;min-width:7rem;overflow-wrap:break-word}
.number{text-align:right}
td.number{white-space:nowrap}
pre{background:var(--card);border-radius:6px;padding:.9rem 1rem;margin:.5rem 0;
font:13px/1.5 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
figure{margin:0;min-width:0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));
gap:1.25rem 2rem;margin:.75rem 0}
svg{display:block;width:100%;height:auto}
@media print{main{max-width:none;padding:0}section,figure{break-inside:avoid}
pre{border:1px solid var(--line)}}
"""
