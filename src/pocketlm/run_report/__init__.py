"""The report of one run: parent against child, and everything that led there, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pocketlm.report import (
    Html,
    Line,
    Section,
    bar_plot,
    bullets,
    lead,
    line_plot,
    note,
    page,
    paragraph,
    preformatted,
    side_by_side,
    table,
)
from pocketlm.run_report.benchmark_notes import BenchmarkNotes
from pocketlm.run_report.benchmarks import benchmark_section
from pocketlm.run_report.exports import ExportedFile as ExportedFile
from pocketlm.run_report.exports import files_section
from pocketlm.run_report.forgetting import ForgettingNotes, forgetting_section
from pocketlm.run_report.shapes import ShapeNotes, shape_section
from pocketlm.run_report.vocabulary import CoveragePoint, VocabularyNotes, vocabulary_section
from pocketlm.units import show_bytes, show_count, show_seconds


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval, which a single document does not have."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is known of the parent or of the child. None: not measured in this run."""

    params: int
    """Parameters, a tied matrix counted once."""
    num_bytes: int
    """Bytes of its weight files."""
    vocab_size: int
    tokens_per_byte: float | None = None
    """Tokens per UTF-8 byte of text held back for choosing."""
    bits_per_byte: Interval | None = None
    """On held-out text."""
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    params_by_part: Mapping[str, int]
    """Part (embedding, attention, ffn, norms, head) -> parameters; at most six parts."""
    sample: str = ""
    """What it writes after the prompt."""


@dataclass(frozen=True)
class LossPoint:
    """One training step: tokens seen so far, loss in nats per token, learning rate."""

    tokens: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class StageLine:
    """A stage of the run: seconds it took when it was made, key of its artifact, reused or not."""

    stage: str
    seconds: float
    key: str
    reused: bool


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything the page shows, as plain values. Empty sequences leave their part out."""

    name: str
    lineage: Sequence[str]
    """Where the child comes from, a line each: parent, corpus, device, versions."""
    child: Side
    parent: Side | None = None
    difference: Interval | None = None
    """Bits per byte, child minus parent, paired by document."""
    benchmarks: BenchmarkNotes | None = None
    curve: Sequence[CoveragePoint] = ()
    vocabulary: VocabularyNotes | None = None
    shapes: ShapeNotes | None = None
    losses: Sequence[LossPoint] = ()
    round_starts: Sequence[int] = ()
    """Tokens seen when the second and each later round began."""
    forgetting: ForgettingNotes | None = None
    exported: Sequence[ExportedFile] = ()
    prompt: str = ""
    stages: Sequence[StageLine] = ()
    recipe_toml: str


def run_report(data: RunReport) -> str:
    """The page of a run, as one HTML file."""
    sections = [
        Section("Parent against child" if data.parent else "The child", _headline(data)),
        Section("Benchmarks", benchmark_section(data.benchmarks)),
        Section("Where the parameters sit", [_parts(data)]),
        Section("Vocabulary", _vocabulary(data)),
        Section("Shape", shape_section(data.shapes)),
        Section("Training", _training(data)),
        Section("Files", files_section(data.exported)),
        Section("Samples", _samples(data)),
        Section("How it was made", _making(data)),
    ]
    return page(data.name, [section for section in sections if section.body])


def verdict(data: RunReport) -> str:
    """One sentence: what the child is, and what it costs or gains against its parent."""
    child, parent, difference = data.child, data.parent, data.difference
    size = f"{show_count(child.params)} parameters in {show_bytes(child.num_bytes)}"
    if parent is None:
        score = child.bits_per_byte
        return f"{data.name} has {size}" + (f" and needs {_bits(score)}." if score else ".")
    start = f"The child has {size}, {100 * child.params / parent.params:.3g} % of its parent's"
    if difference is None:
        return f"{start}; they were not compared on held-out text."
    interval = f"(95 % interval {_span(difference, '+.3f')})"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return f"{start}; on held-out text they cannot be told apart {interval}."
    more = "more" if difference.value > 0 else "fewer"
    return f"{start}, and needs {abs(difference.value):.3f} {more} bits per byte {interval}."


def _bits(score: Interval) -> str:
    return f"{score.value:.3f} bits per byte of held-out text (95 % interval {_span(score, '.3f')})"


def _span(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return "one document: none"
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _headline(data: RunReport) -> list[Html]:
    child, parent = data.child, data.parent
    if parent is None:
        rows = [[name, value] for name, value in _facts(child).items()]
        return [lead(verdict(data)), table(["", "child"], rows)]
    ratios = _ratios(child, parent)
    rows = [
        [name, theirs, ours, ratios.get(name, "")]
        for (name, theirs), ours in zip(_facts(parent).items(), _facts(child).values(), strict=True)
    ]
    parts = [lead(verdict(data)), table(["", "parent", "child", "child / parent"], rows)]
    if data.difference is not None:
        gap = f"{data.difference.value:+.4f} ({_span(data.difference, '+.4f')})"
        parts.append(note(f"Bits per byte, child minus parent, paired by document: {gap}."))
    return parts


def _facts(side: Side) -> dict[str, str]:
    score = side.bits_per_byte
    return {
        "parameters": show_count(side.params),
        "weights at 16 bit": show_bytes(side.num_bytes),
        "bits per byte (95 %)": f"{score.value:.4f} ({_span(score, '.4f')})" if score else "–",
        "prefill, tokens/s": _measured(side.prefill_tokens_per_s),
        "decode, tokens/s": _measured(side.decode_tokens_per_s),
        "vocabulary": f"{side.vocab_size:,}",
        "tokens per byte": f"{side.tokens_per_byte:.4f}" if side.tokens_per_byte else "–",
    }


def _ratios(child: Side, parent: Side) -> dict[str, str]:
    pairs = {
        "parameters": (child.params, parent.params),
        "weights at 16 bit": (child.num_bytes, parent.num_bytes),
        "prefill, tokens/s": (child.prefill_tokens_per_s, parent.prefill_tokens_per_s),
        "decode, tokens/s": (child.decode_tokens_per_s, parent.decode_tokens_per_s),
        "vocabulary": (child.vocab_size, parent.vocab_size),
        "tokens per byte": (child.tokens_per_byte, parent.tokens_per_byte),
    }
    ratios = {name: f"{ours / theirs:.3g}" for name, (ours, theirs) in pairs.items()
              if ours and theirs}  # fmt: skip
    if child.bits_per_byte and parent.bits_per_byte:
        ratio = child.bits_per_byte.value / parent.bits_per_byte.value
        ratios["bits per byte (95 %)"] = f"{ratio:.3f}"
    return ratios


def _measured(rate: float | None) -> str:
    return "–" if rate is None else show_count(float(rate))


def _parts(data: RunReport) -> Html:
    sides = {"parent": data.parent, "child": data.child}
    bars = {
        name: {part: params for part, params in side.params_by_part.items() if params}
        for name, side in sides.items()
        if side is not None
    }
    return bar_plot(bars, x_label="parameters", description="Parameters by part of the model")


def _vocabulary(data: RunReport) -> list[Html]:
    return vocabulary_section(data.curve, data.child.vocab_size, data.vocabulary)


def _training(data: RunReport) -> list[Html]:
    if not data.losses:
        return []
    tokens = [point.tokens for point in data.losses]
    rounds = {f"round {number}": at for number, at in enumerate(data.round_starts, start=2)}
    loss = line_plot(
        [Line("", tokens, [point.loss for point in data.losses])],
        x_label="tokens seen", y_label="loss, nats per token", marks=rounds,
        description="Training loss over tokens seen",
    )  # fmt: skip
    rate = line_plot(
        [Line("", tokens, [point.learning_rate for point in data.losses])],
        x_label="tokens seen", y_label="learning rate", marks=rounds,
        description="Learning rate over tokens seen",
    )  # fmt: skip
    curves = side_by_side([("Loss", loss), ("Learning rate", rate)])
    return [curves, *forgetting_section(data.forgetting, rounds)]


def _samples(data: RunReport) -> list[Html]:
    sides = {"Parent": data.parent, "Child": data.child}
    samples = [
        (name, preformatted(side.sample)) for name, side in sides.items() if side and side.sample
    ]
    if not samples:
        return []
    prompt = [paragraph(f"Greedy, after: {data.prompt}")] if data.prompt else []
    return [*prompt, side_by_side(samples)]


def _making(data: RunReport) -> list[Html]:
    parts = [bullets(data.lineage)]
    rows = [
        [line.stage, line.key, "reused" if line.reused else "made", show_seconds(line.seconds)]
        for line in data.stages
    ]
    if rows:
        parts.append(table(["stage", "artifact", "", "time"], rows, text_columns=3))
    return [*parts, preformatted(data.recipe_toml)]
