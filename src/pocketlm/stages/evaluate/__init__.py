"""Stage 5, evaluate: parent against child on held-out text and on this machine.

The paper compares models by benchmark accuracy; a tiny model on a domain's text is told apart by
bits per byte long before benchmarks leave chance (Gao et al. 2020, The Pile, section 3.1).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pocketlm.artifact import Score
from pocketlm.errors import CorpusError
from pocketlm.model.timing import Speed, Spread, measure_speed
from pocketlm.stages.evaluate.bits import DocumentBits, document_bits
from pocketlm.stages.evaluate.sample import Prompt, continue_text
from pocketlm.stages.evaluate.speed import PEAK_UNIT, UNITS, spreads
from pocketlm.stages.evaluate.summarise import Interval, Summary, summarise

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with the tokenizer it reads through, and its size."""

    network: "PreTrainedModel"
    tokenizer: "Tokenizer"
    num_params: int
    num_bytes: int
    """Weights on disk."""


class DocumentLike(Protocol):
    """A text and the file or collection it came from."""

    @property
    def text(self) -> str: ...

    @property
    def source(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured. Absent is absent: no parent, no speed test, no key."""

    scores: Mapping[str, Score]
    """`child.bits_per_byte`, `parent.params`, `difference.bits_per_byte_low`, ...; one source's
    value is `child.bits_per_byte[source]`."""
    spread: Mapping[str, Spread]
    """Median, least and most of every speed score."""
    samples: Mapping[str, str]
    """Greedy continuation of the prompt by model."""
    per_document: Mapping[str, Sequence[Any]]
    """Columns source, text_sha256, bytes, child_bits and parent_bits, one row a document."""


def evaluate(
    child: Model,
    parent: Model | None,
    documents: Sequence[DocumentLike],
    *,
    context: int,
    speed_tokens: int,
    prompt: Prompt | None,
    rng: np.random.Generator,
) -> Evaluation:
    """Score the same held-out text by both models, then time them, then let them write.

    `context` is in tokens; `speed_tokens` (0: leave it out) is both the prompt's length and the
    number of new tokens. Raises `CorpusError` without any text, `StageError` on bits that are NaN.
    """
    documents = [document for document in documents if document.text]
    if not documents:
        raise CorpusError("evaluate: the held-out part of the corpus is empty; give more text")
    models = {"child": child} if parent is None else {"child": child, "parent": parent}
    texts = [document.text for document in documents]
    bits = {
        name: document_bits(model.network, model.tokenizer, texts, context=context)
        for name, model in models.items()
    }
    sources_N = [document.source for document in documents]
    bits_by_model = {name: own.bits_N for name, own in bits.items()}
    summary = summarise(bits_by_model, bits["child"].bytes_N, sources_N, rng=rng)
    speeds = _speeds(models, speed_tokens, rng)
    spread = {
        f"{name}.{quantity}": own
        for name, speed in speeds.items()
        for quantity, own in spreads(speed).items()
    }
    return Evaluation(
        scores=_bit_scores(summary) | _size_scores(models, bits) | _speed_scores(spread, speeds),
        spread=spread,
        samples=_samples(models, prompt),
        per_document=_table(documents, bits),
    )


def _speeds(
    models: Mapping[str, Model], speed_tokens: int, rng: np.random.Generator
) -> dict[str, Speed]:
    if speed_tokens == 0:
        return {}
    # Two new tokens at least: decode is timed from the second on.
    tokens = {"prompt_tokens": speed_tokens, "new_tokens": max(2, speed_tokens)}
    return {name: measure_speed(model.network, **tokens, rng=rng) for name, model in models.items()}


def _samples(models: Mapping[str, Model], prompt: Prompt | None) -> dict[str, str]:
    if prompt is None or prompt.new_tokens == 0:
        return {}
    return {name: continue_text(m.network, m.tokenizer, prompt) for name, m in models.items()}


def _bit_scores(summary: Summary) -> dict[str, Score]:
    """Overall always; sources and their mean only where there is more than one source."""
    tables: dict[str, Mapping[str, Interval]] = {"": summary.overall}
    if len(summary.by_source) > 1:
        tables["_macro"] = summary.macro
        tables |= {f"[{source}]": table for source, table in summary.by_source.items()}
    return {
        f"{name}.bits_per_byte{end}{which}": Score(value=value, unit="bits/byte")
        for which, table in tables.items()
        for name, interval in table.items()
        for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high))
        if value is not None
    }


def _size_scores(models: Mapping[str, Model], bits: Mapping[str, DocumentBits]) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for name, model in models.items():
        own = bits[name]
        tokens, text_bytes = int(own.tokens_N.sum()), int(own.bytes_N.sum())
        scores |= {
            f"{name}.params": Score(value=model.num_params, unit="parameters"),
            f"{name}.bytes": Score(value=model.num_bytes, unit="bytes"),
            f"{name}.tokens_per_byte": Score(value=tokens / text_bytes, unit="tokens/byte"),
            f"{name}.unknown_share": Score(value=int(own.unknown_N.sum()) / tokens, unit="share"),
        }
    return scores


def _speed_scores(spread: Mapping[str, Spread], speeds: Mapping[str, Speed]) -> dict[str, Score]:
    medians = {
        name: Score(value=own.median, unit=UNITS[name.partition(".")[2]])
        for name, own in spread.items()
    }
    return medians | {
        f"{name}.peak_bytes": Score(value=speed.peak_bytes, unit=PEAK_UNIT)
        for name, speed in speeds.items()
    }


def _table(
    documents: Sequence[DocumentLike], bits: Mapping[str, DocumentBits]
) -> dict[str, Sequence[Any]]:
    hashes = [hashlib.sha256(document.text.encode()).hexdigest() for document in documents]
    columns: dict[str, Sequence[Any]] = {
        "source": [document.source for document in documents],
        "text_sha256": hashes,
        "bytes": bits["child"].bytes_N.tolist(),
    }
    return columns | {f"{name}_bits": own.bits_N.tolist() for name, own in bits.items()}
