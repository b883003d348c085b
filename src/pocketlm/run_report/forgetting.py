"""What the child forgets: loss of parts of the first round, re-scored as training goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketlm.report import Html, Line, line_plot, note, side_by_side, table
from pocketlm.units import show_count

_LINES = 5  # a plot has six colours, one of them the yardstick's


@dataclass(frozen=True)
class PartCurve:
    """Blocks trained at about one step of the first round, looked at again and again."""

    trained_at: int
    """Tokens seen when the part's first step came."""
    losses: Sequence[float]
    """Nats per token at each look, nothing learned from it."""


@dataclass(frozen=True)
class ForgettingNotes:
    """All looks of a run; `tokens`, `yardstick` and each part's losses are equally long."""

    tokens: Sequence[int]
    """Tokens seen at each look."""
    yardstick: Sequence[float]
    """Loss of text held back for choosing, nats per token."""
    parts: Sequence[PartCurve]


def forgetting_section(notes: ForgettingNotes | None, rounds: Mapping[str, float]) -> list[Html]:
    """Loss of some parts over the run, and of every part what training gave it and what is left.

    `rounds`: name -> tokens seen when a later round began.
    """
    if notes is None:
        return []
    lines = [Line("held back", notes.tokens, notes.yardstick)]
    lines += [
        Line(f"part at {show_count(part.trained_at)}", notes.tokens, part.losses)
        for part in _spread(notes.parts)
    ]
    gaps = [
        Line(line.label, line.x, [a - b for a, b in zip(line.y, notes.yardstick, strict=True)])
        for line in lines
    ]
    plots = [
        (caption, _plot(drawn, y_label, rounds, caption))
        for caption, y_label, drawn in (
            ("Loss of parts of round 1, re-scored", "loss, nats per token", lines),
            ("The same above text held back", "nats per token", gaps),
        )
    ]
    headers = ["part trained at", "gap before", "lowest after", "at the end", "given back"]
    return [
        side_by_side(plots),
        table(headers, [_row(notes, part) for part in notes.parts]),
        note(
            "Gap: loss of the part minus loss of text held back, nats per token, so that what the "
            "child learns of all text is left out. Given back: by how much the gap has risen at "
            "the end from its lowest value since the part was trained; that is what is forgotten."
        ),
    ]


def given_back(notes: ForgettingNotes, part: PartCurve) -> tuple[float, float, float]:
    """Gap to the text held back, nats per token: before training, lowest after, at the end."""
    gap = [a - b for a, b in zip(part.losses, notes.yardstick, strict=True)]
    trained = notes.tokens.index(part.trained_at)
    return gap[trained], min(gap[trained + 1 :], default=gap[-1]), gap[-1]


def _row(notes: ForgettingNotes, part: PartCurve) -> list[str]:
    before, lowest, end = given_back(notes, part)
    gaps = [f"{gap:+.3f}" for gap in (before, lowest, end)]
    return [f"{show_count(part.trained_at)} tokens", *gaps, f"{end - lowest:.3f}"]


def _spread(parts: Sequence[PartCurve]) -> list[PartCurve]:
    """At most as many as there are colours, first and last among them."""
    if len(parts) <= _LINES:
        return list(parts)
    return [parts[round(n * (len(parts) - 1) / (_LINES - 1))] for n in range(_LINES)]


def _plot(lines: Sequence[Line], y_label: str, rounds: Mapping[str, float], said: str) -> Html:
    return line_plot(
        lines, x_label="tokens seen", y_label=y_label, marks=rounds, description=said
    )  # fmt: skip
