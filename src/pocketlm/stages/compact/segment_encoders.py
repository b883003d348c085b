"""Encode distinct segments: by tiktoken or sentencepiece where right, else by the model alone.

Shapes: U segments, R ranks, T ids of all segments in a row.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from pocketlm.corpus.document import byte_characters, vocab_of
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.progress import silent_stderr
from pocketlm.stages.compact.segments import BORDER

IntArray = npt.NDArray[np.int64]
Flat = tuple[IntArray, IntArray]
"""Ids of all segments in a row, and how many belong to each."""

_ENCODE_AT_ONCE = 50_000
_JOINED_AT_ONCE = 1_000


def segment_encoder(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Flat] | None:
    if tokenizer.family == "byte-bpe":
        return _tiktoken(tokenizer) or _model_only(tokenizer)
    if tokenizer.sentencepiece is not None:
        as_it_is = _as_it_is(tokenizer.sentencepiece)
        if tokenizer.family == "sentencepiece-bpe":
            return _sentencepiece_joined(as_it_is) or _sentencepiece_each(as_it_is)
        return _sentencepiece_each(as_it_is)
    return _model_only(tokenizer)


def _sentencepiece_each(proto: bytes) -> Callable[[Sequence[str]], Flat]:
    encode = sentencepiece_encoder(proto)
    return lambda segments: _flatten(encode(segments))


def _sentencepiece_joined(proto: bytes) -> Callable[[Sequence[str]], Flat] | None:
    """A thousand segments in one text, a NUL after each: half the time of one call a segment.

    For BPE, whose merges know nothing of what lies further away (sums of Unigram scores round
    differently in a longer text), and where NUL is one byte piece; otherwise None.
    """
    processor = _processor(proto)
    borders = processor.encode(BORDER)
    if len(borders) != 1 or not processor.is_byte(borders[0]):
        return None

    def encode(segments: Sequence[str]) -> Flat:
        parts = [
            processor.encode_as_numpy(
                BORDER.join(segments[start : start + _JOINED_AT_ONCE]) + BORDER
            )
            for start in range(0, len(segments), _JOINED_AT_ONCE)
        ]
        return _split_at(np.concatenate([np.zeros(0, np.int64), *parts]), borders[0])

    return encode


def _split_at(ids_T: IntArray, border: int) -> Flat:
    """Ids of segments that each end with `border`, without those, and how many of each."""
    is_border = ids_T == border
    return ids_T[~is_border], np.diff(np.flatnonzero(is_border), prepend=-1) - 1


def _tiktoken(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Flat] | None:
    """All segments in one text, a NUL after each, encoded in one call.

    tiktoken merges the pair whose joined token ranks first. That is what a list of merges says if
    every token but the bytes is its own encoding; otherwise None.
    """
    try:
        import tiktoken
    except ImportError:
        return None
    model = tokenizer.document["model"]
    vocab = vocab_of(model)
    symbols = list(byte_characters().values())
    if any(symbol not in vocab for symbol in symbols):
        return None
    ranks = {symbol: i for i, symbol in enumerate(symbols)}
    for left, right in model["merges"]:
        ranks.setdefault(left + right, len(ranks))
    if not model.get("ignore_merges"):
        alone = tokenizer.backend.model.tokenize
        if any(len(alone(piece)) != 1 for piece in ranks):
            return None
    by_bytes = dict(zip(as_bytes(ranks), range(len(ranks)), strict=True))
    ids_R = np.array([vocab[piece] for piece in ranks], dtype=np.int64)
    encoding = tiktoken.Encoding(
        "segments", pat_str=r"[^\x00]+|\x00", mergeable_ranks=by_bytes, special_tokens={}
    )
    border = by_bytes[BORDER.encode()]

    def encode(segments: Sequence[str]) -> Flat:
        ranks_T = encoding.encode_to_numpy(BORDER.join(segments) + BORDER).astype(np.int64)
        inside_T, lengths_U = _split_at(ranks_T, border)
        return ids_R[inside_T], lengths_U

    return encode


def _model_only(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Flat]:
    """The library's own model on segments that are already normalised."""
    plain = {**tokenizer.document, "normalizer": None, "pre_tokenizer": None, "added_tokens": []}
    plain["post_processor"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(plain, ensure_ascii=False))
    table = byte_characters()

    def encode(segments: Sequence[str]) -> Flat:
        if tokenizer.family == "byte-bpe":
            segments = ["".join(table[b] for b in segment.encode()) for segment in segments]
        ids: list[list[int]] = []
        for start in range(0, len(segments), _ENCODE_AT_ONCE):
            some = list(segments[start : start + _ENCODE_AT_ONCE])
            found = backend.encode_batch_fast(some, add_special_tokens=False)
            ids += [encoding.ids for encoding in found]
        return _flatten(ids)

    return encode


def _flatten(ids: Sequence[Sequence[int]]) -> Flat:
    lengths_U = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return np.fromiter(chain.from_iterable(ids), dtype=np.int64), lengths_U


def as_bytes(pieces: Any) -> Iterator[bytes]:
    """Pieces of a byte-level vocabulary as the bytes they stand for; others stand for nothing."""
    byte_of = {character: byte for byte, character in byte_characters().items()}
    for piece in pieces:
        known = all(character in byte_of for character in piece)
        yield bytes(byte_of[c] for c in piece) if known else b""


def sentencepiece_encoder(proto: bytes) -> Callable[[Sequence[str]], list[list[int]]]:
    processor = _processor(proto)
    return lambda texts: processor.encode(list(texts), num_threads=1)


def _processor(proto: bytes) -> Any:
    import sentencepiece

    with silent_stderr():
        return sentencepiece.SentencePieceProcessor(model_proto=proto)


def _as_it_is(proto: bytes) -> bytes:
    """The model without its normaliser: a segment is encoded as it stands."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(proto)
    spec = model.normalizer_spec
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = spec.escape_whitespaces = False
    spec.name, spec.precompiled_charsmap = "identity", b""
    serialized: bytes = model.SerializeToString()
    return serialized
