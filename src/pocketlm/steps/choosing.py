"""Bits per byte of text no child is trained on: what stages choose by, and what files report."""

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from pocketlm.steps.materials import Materials

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BitsPerByte = Callable[["PreTrainedModel"], float]

_SCORED_BYTES = 100_000  # of either split, about 30,000 tokens


def choosing_bits(run: Materials) -> BitsPerByte:
    """A score of any network that speaks the child's tokens; always the same documents."""
    return _bits(run, _choosing(run))


def held_out_bits(run: Materials) -> BitsPerByte:
    """The same on held-out text: a part of what evaluate reads, enough to tell files apart."""
    documents = run.inputs.corpus.sample("held-out", max_bytes=_SCORED_BYTES)
    return _bits(run, [document.text for document in documents])


def _bits(run: Materials, texts: list[str]) -> BitsPerByte:
    from pocketlm.stages.evaluate.bits import document_bits

    tokenizer = run.tokenizer()

    def bits_per_byte(network: "PreTrainedModel") -> float:
        found = document_bits(network, tokenizer, texts, context=run.recipe.train.seq_len)
        return float(found.bits_N.sum() / found.bytes_N.sum())

    return bits_per_byte


def _choosing(run: Materials) -> list[str]:
    chosen: list[str] = []
    room = _SCORED_BYTES
    for text in islice(run.inputs.corpus.texts("choose"), 10_000):
        chosen.append(text)
        room -= len(text.encode())
        if room <= 0:
            break
    return chosen
