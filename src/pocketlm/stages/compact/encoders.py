"""Back ends that turn texts into counts of tokens, each proven equal to the tokenizers library.

`batch` is the reference. `segments` cuts texts into segments that no token crosses, counts the
distinct ones and encodes each once, by tiktoken or sentencepiece where they give the same ids.
`sentencepiece` encodes whole texts. Shapes: P token ids, U distinct segments.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.document import vocab_of
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.method import Method
from pocketlm.stages.compact.segment_encoders import (
    as_bytes,
    segment_encoder,
    sentencepiece_encoder,
)
from pocketlm.stages.compact.segments import (
    BORDER,
    Segmenter,
    UnsafePairs,
    normaliser_of,
    rewrites_for,
    unsettled_points,
)

IntArray = npt.NDArray[np.int64]
TextCounter = Callable[[Sequence[str]], IntArray]

BATCH_CHARACTERS = 1_000_000
SEGMENT_CHARACTERS = 2_000_000


def batch_counter(tokenizer: Tokenizer) -> TextCounter | None:
    """Every text by `encode_batch_fast` of the tokenizers library: always right."""

    def count(texts: Sequence[str]) -> IntArray:
        counts_P = np.zeros(tokenizer.num_tokens, dtype=np.int64)
        for some in batches(texts, BATCH_CHARACTERS):
            ids = np.fromiter(chain.from_iterable(tokenizer.encode_batch(some)), dtype=np.int64)
            counts_P += np.bincount(ids, minlength=counts_P.size)
        return counts_P

    return count


def sentencepiece_counter(tokenizer: Tokenizer) -> TextCounter | None:
    """Every text by the sentencepiece library, where the source is a SentencePiece model."""
    if tokenizer.sentencepiece is None:
        return None
    encode = sentencepiece_encoder(tokenizer.sentencepiece)
    slow = _careful(tokenizer, settle=False)

    def count(texts: Sequence[str]) -> IntArray:
        counts_P, fast = slow(texts)
        for some in batches(fast, BATCH_CHARACTERS):
            ids = np.fromiter(chain.from_iterable(encode(some)), dtype=np.int64)
            counts_P += np.bincount(ids, minlength=counts_P.size)
        return counts_P

    return count


def segment_counter(tokenizer: Tokenizer) -> TextCounter | None:
    """Distinct segments once each; memory grows with the texts given at a time, not beyond."""
    segmenter = _segmenter(tokenizer)
    encode = None if segmenter is None else segment_encoder(tokenizer)
    if segmenter is None or encode is None:
        return None
    slow = _careful(tokenizer, settle=bool(segmenter.rewrites))

    def count(texts: Sequence[str]) -> IntArray:
        counts_P, fast = slow(texts)
        if not fast:
            return counts_P
        segments, counts_U = _distinct(segmenter, fast)
        ids, lengths_U = encode(segments)
        weights = np.repeat(counts_U, lengths_U)
        # Sums of whole numbers below 2^53: exact in float64.
        found = np.bincount(ids, weights=weights, minlength=counts_P.size)
        whole: IntArray = counts_P + found.astype(np.int64)
        return whole

    return count


Encoder = Callable[[Tokenizer], TextCounter | None]

# The fastest first; `batch` is what the others are proven against.
ENCODERS: dict[str, Method[Encoder]] = {
    "segments": Method(segment_counter, paper="ours; pretoken counting (gigatoken, tiktoken)"),
    "sentencepiece": Method(sentencepiece_counter, paper="sentencepiece 0.2"),
    "batch": Method(batch_counter, paper="tokenizers 0.23, encode_batch_fast"),
}


def prove(tokenizer: Tokenizer, samples: Sequence[str], *, among: Sequence[str]) -> str:
    """The first of `among` whose counts equal the reference's on every tenth of `samples`."""
    reference = batch_counter(tokenizer)
    assert reference is not None
    parts = [samples[start::10] for start in range(10)]
    expected = [reference(part) for part in parts]
    for name in among:
        counter = ENCODERS[name].function(tokenizer)
        if counter is not None and all(
            np.array_equal(counter(part), counts_P)
            for part, counts_P in zip(parts, expected, strict=True)
        ):
            return name
    return "batch"


def batches(texts: Iterable[str], num_characters: int) -> Iterator[list[str]]:
    """`texts` in lists of about `num_characters` each."""
    batch: list[str] = []
    total = 0
    for text in texts:
        batch.append(text)
        total += len(text)
        if total >= num_characters:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _careful(
    tokenizer: Tokenizer, *, settle: bool
) -> Callable[[Sequence[str]], tuple[IntArray, list[str]]]:
    """Counts the texts that only the reference reads right, and gives back the others.

    Those with a NUL, with an added token that the library finds in text, or (`settle`) with
    characters that may be letters to one Unicode version and nothing to another.
    """
    reference = batch_counter(tokenizer)
    assert reference is not None
    added = tokenizer.backend.get_added_tokens_decoder().values()
    contents = [token.content for token in added if not token.special]
    # One pass for all of them: a common first character makes it as fast as looking for one.
    in_text = re.compile("|".join(map(re.escape, contents)) if contents else r"(?!)")
    marks = re.compile(f"{BORDER}|{in_text.pattern}")

    def split(texts: Sequence[str]) -> tuple[IntArray, list[str]]:
        joined = BORDER.join(texts)
        odd = joined.count(BORDER) >= len(texts) or (settle and _has_unsettled(joined))
        if not odd and in_text.search(joined) is None:
            return np.zeros(tokenizer.num_tokens, dtype=np.int64), list(texts)
        slow = [
            marks.search(text) is not None or (settle and _has_unsettled(text)) for text in texts
        ]
        counts_P = reference([text for text, is_slow in zip(texts, slow, strict=True) if is_slow])
        return counts_P, [text for text, is_slow in zip(texts, slow, strict=True) if not is_slow]

    return split


def _has_unsettled(text: str) -> bool:
    if text.isascii():
        return False
    return bool(unsettled_points()[np.frombuffer(text.encode("utf-32-le"), np.uint32)].any())


def _segmenter(tokenizer: Tokenizer) -> Segmenter | None:
    rewrites = rewrites_for(tokenizer)
    if tokenizer.family == "wordpiece" or rewrites is None:
        return None  # greedy from the beginning of a word: nothing inside it may be cut
    vocab = vocab_of(tokenizer.document["model"])
    unsafe: UnsafePairs | None = None
    if tokenizer.family != "byte-bpe":
        known = {piece for piece in vocab if len(piece) == 1}
        unsafe = UnsafePairs(list(vocab), known)
    elif not tokenizer.document["model"].get("ignore_merges"):
        # With ignore_merges a whole word may be a token that a part of a longer word never is.
        unsafe = UnsafePairs(list(as_bytes(vocab)))
    return Segmenter(normalise=normaliser_of(tokenizer), rewrites=rewrites, unsafe=unsafe)


def _distinct(segmenter: Segmenter, texts: Sequence[str]) -> tuple[Any, IntArray]:
    """The distinct segments of `texts` and how often each occurs."""
    import pyarrow as pa

    cut = [segmenter(some) for some in batches(texts, SEGMENT_CHARACTERS)]
    found = pa.chunked_array(cut).value_counts()
    segments = found.field("values").to_pylist()
    counts_U = found.field("counts").to_numpy().astype(np.int64)
    kept = [i for i, segment in enumerate(segments) if segment and segment != BORDER]
    return [segments[i] for i in kept], counts_U[kept]
