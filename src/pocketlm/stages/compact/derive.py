"""How each token is built: the last merge of what BPE does to the token's own string.

BPE has the substring property: merges inside a token do not depend on its neighbours, so encoding
the token alone shows its derivation (github/rust-gems, bpe). A token has as many candidate merges
as the file lists for it; simulating by rank finds the one that really happens.

Shapes: P parent ids (holes included).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer

IntArray = npt.NDArray[np.int64]
ATOM = -1

Ranks = Mapping[tuple[int, int], int]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a BPE by id, and what each is built from."""

    pieces_P: Sequence[str | None]
    """None where no token has the id."""
    left_P: IntArray
    """Left half of the derivation; `ATOM` for characters, specials and unreachable tokens."""
    right_P: IntArray
    rank_P: IntArray
    """Place of the derivation's merge in the merge list; `ATOM` as above."""
    length_P: IntArray
    """Characters of the piece."""

    @property
    def ids(self) -> IntArray:
        """Ids that have a token, ascending."""
        return np.array([i for i, p in enumerate(self.pieces_P) if p is not None], dtype=np.int64)

    def ancestors(self, ids: Sequence[int]) -> set[int]:
        """`ids` and everything they are built from."""
        found: set[int] = set()
        waiting = list(ids)
        while waiting:
            token = waiting.pop()
            if token not in found:
                found.add(token)
                if self.left_P[token] != ATOM:
                    waiting += [int(self.left_P[token]), int(self.right_P[token])]
        return found


def read_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Derive every token of `tokenizer`: about 10 microseconds a token."""
    model = json.loads(tokenizer.backend.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    num_tokens = tokenizer.num_tokens
    pieces_P: list[str | None] = [None] * num_tokens
    for piece, i in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        pieces_P[i] = piece
    ranks, built = _read_merges(model, vocab)
    derivation_P3 = np.full((num_tokens, 3), ATOM, dtype=np.int64)
    for piece, i in vocab.items():
        symbols = [vocab.get(character, ATOM) for character in piece]
        last = _last_merge(symbols, ranks, built)
        if last is not None and built[last[2]] == i:
            derivation_P3[i] = last
    left_P, right_P, rank_P = derivation_P3.T.copy()
    length_P = np.array([len(piece or "") for piece in pieces_P], dtype=np.int64)
    return Vocabulary(
        pieces_P=pieces_P, left_P=left_P, right_P=right_P, rank_P=rank_P, length_P=length_P
    )


def _read_merges(model: Any, vocab: dict[str, int]) -> tuple[Ranks, list[int]]:
    """(left, right) -> rank, and the token that each rank builds. Of duplicates the last counts,
    as in the tokenizers library."""
    ranks: dict[tuple[int, int], int] = {}
    built: list[int] = []
    for rank, (left, right) in enumerate(model["merges"]):
        ranks[vocab[left], vocab[right]] = rank
        built.append(vocab[left + right])
    return ranks, built


def _last_merge(
    symbols: list[int], ranks: Ranks, built: Sequence[int]
) -> tuple[int, int, int] | None:
    """(left, right, rank) of the merge that joins all `symbols`; None if none does."""
    if ATOM in symbols:
        return None
    never = len(built)
    rank_of_pairs = [ranks.get(pair, never) for pair in pairwise(symbols)]
    while len(symbols) > 2:
        rank = min(rank_of_pairs)
        if rank == never:
            return None
        at = rank_of_pairs.index(rank)
        symbols[at : at + 2] = [built[rank]]
        del rank_of_pairs[at]
        if at > 0:
            rank_of_pairs[at - 1] = ranks.get((symbols[at - 1], symbols[at]), never)
        if at + 1 < len(symbols):
            rank_of_pairs[at] = ranks.get((symbols[at], symbols[at + 1]), never)
    if len(symbols) < 2 or rank_of_pairs[0] == never:
        return None
    return symbols[0], symbols[1], rank_of_pairs[0]
