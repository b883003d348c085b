"""The forest plot: each arm's difference from the baseline, with its intervals."""

from typing import TYPE_CHECKING

from pocketlm.ablation.statistics import Verdict
from pocketlm.ablation.summary import Arm, Comparison
from pocketlm.report import COLOUR, Html, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: dict[Verdict, str] = {"better": COLOUR["s3"], "worse": COLOUR["s6"]}


def forest_plot(comparison: Comparison) -> Html:
    """Dot and line: mean and interval over seeds. Broad grey bar: interval over documents."""
    study = comparison.study
    arms = [arm for arm in comparison.arms if arm.difference is not None]
    unit = f", {comparison.unit}" if comparison.unit else ""

    def paint(figure: "Figure") -> None:
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            _paint_arm(axes, row, arm)
        axes.axvline(0, color=COLOUR["muted"], linewidth=1, zorder=0)
        axes.set_yticks(range(len(arms)), [arm.name for arm in arms], color=COLOUR["ink"])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(f"difference in {study.score}{unit} ({study.better} is better)")
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=7)

    size = (9.0, 0.9 + 0.42 * max(1, len(arms)))
    return draw(paint, size=size, description=f"Differences from the baseline in {study.score}")


def _paint_arm(axes: "Axes", row: int, arm: Arm) -> None:
    difference = arm.difference
    assert difference is not None, "arms without a difference are not drawn"
    colour = _COLOURS.get(arm.verdict, COLOUR["s5"]) if arm.verdict else COLOUR["s5"]
    if arm.documents is not None:
        axes.plot(arm.documents, (row, row), color=COLOUR["line"], linewidth=7, zorder=1)
    if difference.low is not None and difference.high is not None:
        ends = (difference.low, difference.high)
        axes.plot(ends, (row, row), color=colour, linewidth=1.8, marker="|", markersize=8)
    axes.plot(difference.mean, row, color=colour, marker="o", markersize=6)
