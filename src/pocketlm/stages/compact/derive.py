"""What each token is built from, and what losing it costs.

BPE: the last merge of what BPE does to the token's own string. Merges inside a token do not depend
on its neighbours, so encoding the token alone shows its derivation (github/rust-gems, bpe). A token
has as many candidate merges as the file lists for it; merging by rank finds the one that really
happens. All tokens are merged at once, in one step for each length.
Unigram and WordPiece build nothing from other tokens: see `alternatives`.

Shapes: P parent ids (holes included), M and R merges, T tokens of N symbols.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.document import Family
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.stages.compact.alternatives import unigram_alternatives, wordpiece_alternatives
from pocketlm.stages.compact.surfaces import surfaces

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
ATOM = -1


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a tokenizer by id, what each is built from and what losing it costs."""

    family: Family
    pieces_P: Sequence[str | None]
    """None where no token has the id."""
    surfaces_P: Sequence[str | None]
    """The text a token stands for; None for specials, bytes and parts of a character."""
    left_P: IntArray
    """Left half of the derivation; `ATOM` for characters, specials and unreachable tokens, and for
    every token of Unigram and WordPiece."""
    right_P: IntArray
    rank_P: IntArray
    """Place of the derivation's merge in the merge list; `ATOM` as above."""
    length_P: IntArray
    """Characters of the piece."""
    extra_P: IntArray
    """Tokens more per use if this token alone goes; never 0 for BPE."""
    log_prob_P: FloatArray | None = None
    """Unigram: score of the piece, nats."""
    second_best_P: FloatArray | None = None
    """Unigram: score of the best segmentation without it, nats."""

    @cached_property
    def ids(self) -> IntArray:
        """Ids that have a token, ascending."""
        return np.array([i for i, p in enumerate(self.pieces_P) if p is not None], dtype=np.int64)

    @cached_property
    def built_by_length(self) -> list[IntArray]:
        """Ids of the tokens with a derivation, those of one length together, short ones first.

        Halves are shorter than what they build, though their rank may be later.
        """
        built = np.flatnonzero(self.left_P != ATOM)
        built = built[np.argsort(self.length_P[built], kind="stable")]
        borders = np.flatnonzero(np.diff(self.length_P[built])) + 1
        return np.split(built, borders) if built.size else []

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
    model, num_tokens = tokenizer.document["model"], tokenizer.num_tokens
    pieces_P: list[str | None] = [None] * num_tokens
    for piece, i in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        pieces_P[i] = piece
    derivation_3P = np.full((3, num_tokens), ATOM, dtype=np.int64)
    costs: dict[str, Any] = {}
    if tokenizer.family == "unigram":
        costs = vars(unigram_alternatives(model, num_tokens))
    elif tokenizer.family == "wordpiece":
        costs = vars(wordpiece_alternatives(model, num_tokens))
    else:
        derivation_3P, extra_P = _derive(model, num_tokens)
        costs = {"extra_P": extra_P}
    return Vocabulary(
        family=tokenizer.family,
        pieces_P=pieces_P,
        surfaces_P=surfaces(tokenizer, pieces_P),
        left_P=derivation_3P[0],
        right_P=derivation_3P[1],
        rank_P=derivation_3P[2],
        length_P=np.array([len(piece or "") for piece in pieces_P], dtype=np.int64),
        **costs,
    )


def _derive(model: Mapping[str, Any], num_tokens: int) -> tuple[IntArray, IntArray]:
    """(left, right, rank) by id, and what a use costs without the token: 1 token more; of a
    character that falls to bytes all but one; of a token that is never merged (`ignore_merges`
    looks up whole words) all but one of what merging its string gives."""
    vocab: dict[str, int] = model["vocab"]
    merges = _read_merges(model["merges"], vocab)
    derivation_3P = np.full((3, num_tokens), ATOM, dtype=np.int64)
    extra_P = np.ones(num_tokens, dtype=np.int64)
    states = _spelled(vocab)
    symbols_TN, ids_T = next(states)
    ranks_TN = merges.rank_of(symbols_TN[:, :-1], symbols_TN[:, 1:])
    while symbols_TN.shape[1] > 2:
        moves = ranks_TN.min(axis=1) < merges.never
        extra_P[ids_T[~moves]] = symbols_TN.shape[1] - 1
        symbols_TN, ranks_TN = merges.apply_first(symbols_TN[moves], ranks_TN[moves])
        more_TN, more_T = next(states)
        more_ranks_TN = merges.rank_of(more_TN[:, :-1], more_TN[:, 1:])
        symbols_TN = np.concatenate([symbols_TN, more_TN])
        ranks_TN = np.concatenate([ranks_TN, more_ranks_TN])
        ids_T = np.concatenate([ids_T[moves], more_T])
    joined = ranks_TN[:, 0] < merges.never
    derivation_3P[:2, ids_T[joined]] = symbols_TN[joined].T
    derivation_3P[2, ids_T[joined]] = ranks_TN[joined, 0]
    if model["byte_fallback"]:
        for piece, i in vocab.items():
            if len(piece) == 1:
                extra_P[i] = max(len(piece.encode()) - 1, 1)
    return derivation_3P, extra_P


def _spelled(vocab: Mapping[str, int]) -> Iterator[tuple[IntArray, IntArray]]:
    """Characters of the tokens, as ids, and the tokens: those of the longest, one shorter, .. 2.

    Tokens with a character that is no token are left out.
    """
    character_ids = np.full(sys.maxunicode + 1, ATOM, dtype=np.int64)
    for piece, i in vocab.items():
        if len(piece) == 1:
            character_ids[ord(piece)] = i
    codes = np.frombuffer("".join(vocab).encode("utf-32-le"), dtype=np.uint32)
    symbols = character_ids[codes]
    lengths = np.fromiter(map(len, vocab), dtype=np.int64, count=len(vocab))
    ids = np.fromiter(vocab.values(), dtype=np.int64, count=len(vocab))
    starts = np.cumsum(lengths) - lengths
    for length in range(max(2, lengths.max(initial=2)), 1, -1):
        of_length = lengths == length
        symbols_TN = symbols[starts[of_length][:, None] + np.arange(length)]
        whole = (symbols_TN != ATOM).all(axis=1)
        yield symbols_TN[whole], ids[of_length][whole]


@dataclass(frozen=True, kw_only=True)
class _Merges:
    """The merge list: pairs as one number, sorted."""

    pairs_M: IntArray
    """left * num_ids + right, ascending."""
    ranks_M: IntArray
    """Rank of each of `pairs_M`."""
    built_R: IntArray
    """Rank -> the token it builds."""
    num_ids: int

    @property
    def never(self) -> int:
        """Stands for the rank of what is no merge."""
        return self.built_R.size

    def rank_of(self, left: IntArray, right: IntArray) -> IntArray:
        """Rank of each pair, `never` where it is no merge. Of duplicates the last counts, as in
        the tokenizers library."""
        pairs = left * self.num_ids + right
        at = np.searchsorted(self.pairs_M, pairs, side="right") - 1
        return np.where(self.pairs_M[at] == pairs, self.ranks_M[at], self.never)

    def apply_first(self, symbols_TN: IntArray, ranks_TN: IntArray) -> tuple[IntArray, IntArray]:
        """Do the merge of least rank in each row, the leftmost of equals: N - 1 symbols."""
        rows = np.arange(len(symbols_TN))
        at_T = ranks_TN.argmin(axis=1)
        symbols_TN[rows, at_T] = self.built_R[ranks_TN[rows, at_T]]
        symbols_TN = _without_column(symbols_TN, at_T + 1)
        ranks_TN = _without_column(ranks_TN, at_T)
        before = np.flatnonzero(at_T > 0)
        after = np.flatnonzero(at_T < ranks_TN.shape[1])
        for rows, left_T in ((before, at_T[before] - 1), (after, at_T[after])):
            pair = symbols_TN[rows, left_T], symbols_TN[rows, left_T + 1]
            ranks_TN[rows, left_T] = self.rank_of(*pair)
        return symbols_TN, ranks_TN


def _read_merges(merges: Sequence[Sequence[str]], vocab: Mapping[str, int]) -> _Merges:
    """The library writes each merge as a pair, also those that a file has as "a b"."""
    count = len(merges)
    left_R, right_R, built_R = (
        np.fromiter(map(vocab.__getitem__, names), dtype=np.int64, count=count)
        for names in ((a for a, _ in merges), (b for _, b in merges), map("".join, merges))
    )
    num_ids = 1 + max(vocab.values(), default=0)
    keys_R = left_R * num_ids + right_R
    order = np.argsort(keys_R, kind="stable")
    # One entry that no pair equals, so that a list without merges can be searched too.
    return _Merges(
        pairs_M=np.concatenate([[-1], keys_R[order]]),
        ranks_M=np.concatenate([[count], order]),
        built_R=built_R,
        num_ids=num_ids,
    )


def _without_column(array_TN: IntArray, column_T: IntArray) -> IntArray:
    """`array_TN` without one entry of each row."""
    stays_TN = np.ones(array_TN.shape, dtype=bool)
    stays_TN[np.arange(len(array_TN)), column_T] = False
    return array_TN[stays_TN].reshape(len(array_TN), array_TN.shape[1] - 1)
