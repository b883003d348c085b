"""What a compacted vocabulary has to say: its part of a run's page, and its lines on the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketlm.report import Html, Line, bullets, line_plot, side_by_side, table


@dataclass(frozen=True)
class CoveragePoint:
    """One vocabulary size: share of the corpus's tokens it keeps, and the length it costs."""

    vocab_size: int
    coverage: float
    tokens_per_byte: float


@dataclass(frozen=True, kw_only=True)
class VocabularyNotes:
    """What stage 1 has to say beside its curve."""

    reason: str
    """Why it has this size."""
    law_size: int | None
    """Size of the published vocabulary law."""
    warnings: Sequence[str]
    provenance: Mapping[str, int]
    """Why tokens stayed -> how many."""
    checks: Sequence[tuple[str, bool, int, str]]
    """Name, held or not, how many things were tried, what broke it."""


def vocabulary_section(
    curve: Sequence[CoveragePoint], vocab_size: int, notes: VocabularyNotes | None
) -> list[Html]:
    """Curves of coverage and length with the chosen size marked, then the notes and checks."""
    if not curve:
        return []
    sizes = [point.vocab_size for point in curve]
    chosen = {f"chosen: {vocab_size:,}": vocab_size}
    if notes and notes.law_size and notes.law_size <= max(sizes):
        chosen[f"law: {notes.law_size:,}"] = notes.law_size
    coverage = line_plot(
        [Line("", sizes, [100 * point.coverage for point in curve])],
        x_label="tokens kept", y_label="% of the corpus's tokens", marks=chosen,
        description="Coverage over vocabulary size",
    )  # fmt: skip
    length = line_plot(
        [Line("", sizes, [point.tokens_per_byte for point in curve])],
        x_label="tokens kept", y_label="tokens per byte", marks=chosen,
        description="Tokens per byte over vocabulary size",
    )  # fmt: skip
    plots = side_by_side([("Coverage", coverage), ("Length", length)])
    return [plots, *(_vocabulary_notes(notes) if notes else [])]


def _vocabulary_notes(notes: VocabularyNotes) -> list[Html]:
    lines = [f"Size: {notes.reason}", *(f"Warning: {line}" for line in notes.warnings)]
    if notes.law_size:
        lines.append(f"The published vocabulary law would take {notes.law_size:,} tokens.")
    stayed = ", ".join(f"{count:,} {reason}" for reason, count in notes.provenance.items())
    rows = [
        [name, "holds" if held else "broken", broken, f"{tried:,}"]
        for name, held, tried, broken in notes.checks
    ]
    return [
        bullets([*lines, f"Why tokens stayed: {stayed}."]),
        table(["check", "", "", "tried"], rows, text_columns=3),
    ]


def check_lines(notes: VocabularyNotes) -> list[str]:
    """The invariants of a compacted tokenizer as a table, with its size and warnings."""
    lines = [f"vocabulary: {notes.reason}", *(f"warning: {line}" for line in notes.warnings)]
    for name, held, tried, broken in notes.checks:
        state = "holds" if held else "broken"
        lines.append(f"  {name:<12} {state:<7} {tried:>9,} tried  {broken}".rstrip())
    return lines
