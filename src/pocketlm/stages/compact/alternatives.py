"""What a token's text becomes if the token alone goes, where tokens are not built of each other.

Unigram: the best segmentation of the piece's own string without the piece, by Viterbi, as the
libraries do it: a character without a piece costs 10 nats more than the least likely piece.
WordPiece: the longest match from the left without the piece.
Shapes: P parent ids (holes included).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NEEDED = 1000
"""Tokens that losing a text's only spelling is held to cost, so that it is lost last."""
UNKNOWN_PENALTY = 10.0  # nats; kUnkPenalty in SentencePiece, K_UNK_PENALTY in tokenizers


@dataclass(frozen=True)
class Alternatives:
    """What losing each token costs."""

    extra_P: IntArray
    """More tokens per use; 0 where the libraries never give the token anyway."""
    log_prob_P: FloatArray | None = None
    """Unigram: score of the piece, nats."""
    second_best_P: FloatArray | None = None
    """Unigram: score of the best segmentation without it, nats."""


def unigram_alternatives(model: Mapping[str, Any], num_tokens: int) -> Alternatives:
    """For each piece of a Unigram `model`; ids beyond it (added tokens) cost 1 token a use."""
    scores = {piece: float(score) for piece, score in model["vocab"]}
    has_bytes = bool(model.get("byte_fallback")) and all(
        f"<0x{byte:02X}>" in scores for byte in range(256)
    )
    unknown = min(scores.values()) - UNKNOWN_PENALTY
    extra_P = np.ones(num_tokens, dtype=np.int64)
    log_prob_P, second_best_P = np.zeros(num_tokens), np.zeros(num_tokens)
    for i, (piece, log_prob) in enumerate(scores.items()):
        second_best, num_pieces, others = _best_without(piece, scores, unknown)
        log_prob_P[i], second_best_P[i] = log_prob, second_best
        if second_best > log_prob:  # the piece wins ties
            extra_P[i] = 0
        elif others and not has_bytes:
            extra_P[i] = NEEDED
        else:
            extra_P[i] = num_pieces + len(others.encode()) - 1
    return Alternatives(extra_P, log_prob_P, second_best_P)


def _best_without(
    piece: str, scores: Mapping[str, float], unknown: float
) -> tuple[float, int, str]:
    """Score, number of pieces, and the characters without a piece, of the best segmentation."""
    length = len(piece)
    best = [0.0] + [-math.inf] * length
    starts = [0] * (length + 1)
    for start, character in enumerate(piece):
        here = best[start]
        for end in range(start + 1, length + (start > 0)):
            score = scores.get(piece[start:end])
            if score is not None and here + score > best[end]:
                best[end], starts[end] = here + score, start
        if (character not in scores or length == 1) and here + unknown > best[start + 1]:
            best[start + 1], starts[start + 1] = here + unknown, start
    num_pieces, others, end = 0, "", length
    while end > 0:
        part = piece[starts[end] : end]
        if part in scores and part != piece:
            num_pieces += 1
        else:
            others += part
        end = starts[end]
    return best[length], num_pieces, others


def wordpiece_alternatives(model: Mapping[str, Any], num_tokens: int) -> Alternatives:
    """For each piece of a WordPiece `model`; a word with an unmatched part is lost as a whole."""
    vocab: dict[str, int] = model["vocab"]
    prefix: str = model["continuing_subword_prefix"]
    extra_P = np.ones(num_tokens, dtype=np.int64)
    for piece, i in vocab.items():
        num_pieces = _greedy_without(piece, vocab, prefix)
        extra_P[i] = NEEDED if num_pieces is None else num_pieces - 1
    return Alternatives(extra_P)


def _greedy_without(piece: str, vocab: Mapping[str, int], prefix: str) -> int | None:
    mark = prefix if piece.startswith(prefix) else ""
    text = piece.removeprefix(mark)
    at = num_pieces = 0
    while at < len(text):
        end = len(text) if at else len(text) - 1
        while end > at and mark + text[at:end] not in vocab:
            end -= 1
        if end == at:
            return None
        at, mark, num_pieces = end, prefix, num_pieces + 1
    return num_pieces or None
