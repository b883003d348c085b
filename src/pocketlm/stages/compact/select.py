"""Which tokens stay: the mandatory ones, then the best of a ranking.

Usage (ours; leaf pruning with parent credit, Purason et al. 2025, in one pass):
    U(t) = F(t) + sum of U over the tokens built from t, per half
    F(t) final count on the corpus, in tokens.
U of a token's halves is never below its own and they are shorter, so the largest by (U desc,
length asc, rank asc) are closed under derivation and nested: one count serves every size.
Shapes: P parent ids, V kept ids, R ranked ids.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketlm.errors import RecipeError
from pocketlm.method import Method
from pocketlm.stages.compact.count import Counts
from pocketlm.stages.compact.derive import ATOM, Vocabulary

IntArray = npt.NDArray[np.int64]
NUM_CURVE_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All tokens, the most wanted first."""

    ids_R: IntArray
    closed: bool
    """Whether every token comes after the tokens it is built from."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What one size would cost."""

    vocab_size: int
    coverage: float
    """Share of the counted tokens whose piece is kept, 0..1."""
    tokens_per_byte: float
    """Estimated: each removed token costs one more token per use (`size_curve`)."""


def by_usage(vocabulary: Vocabulary, counts_P: IntArray) -> Ranking:
    """The tokens that most of the text is built through."""
    usage_P = usage(vocabulary, counts_P)
    return Ranking(ids_R=_sorted(vocabulary, usage_P), closed=True)


def by_frequency(vocabulary: Vocabulary, counts_P: IntArray) -> Ranking:
    """The most frequent final pieces. What they are built from may go, which leaves dead tokens."""
    ids = vocabulary.ids
    return Ranking(ids_R=ids[np.lexsort((ids, -counts_P[ids]))], closed=False)


Selector = Callable[[Vocabulary, IntArray], Ranking]

SELECTORS: dict[str, Method[Selector]] = {
    "usage": Method(by_usage, paper="ours; one-pass form of leaf pruning, Purason et al. 2025"),
    "frequency": Method(by_frequency, paper="arXiv 2402.02791, compact tokenizer"),
}


def usage(vocabulary: Vocabulary, counts_P: IntArray) -> IntArray:
    """U by id. Halves are shorter than what they build (their rank may be later), so lengths are
    processed from long to short."""
    usage_P = counts_P.copy()
    built = np.flatnonzero(vocabulary.left_P != ATOM)
    lengths = vocabulary.length_P[built]
    for length in np.unique(lengths)[::-1]:
        ids = built[lengths == length]
        np.add.at(usage_P, vocabulary.left_P[ids], usage_P[ids])
        np.add.at(usage_P, vocabulary.right_P[ids], usage_P[ids])
    return usage_P


def check_size(vocab_size: int | None, *, num_tokens: int, num_mandatory: int) -> None:
    """Raises `RecipeError` unless num_mandatory <= vocab_size <= num_tokens."""
    if vocab_size is None:
        return
    where = f"[compact] vocab_size = {vocab_size}"
    if vocab_size > num_tokens:
        raise RecipeError(
            f"{where}: the parent has {num_tokens} tokens. Choose {num_tokens} or fewer."
        )
    if vocab_size < num_mandatory:
        raise RecipeError(
            f"{where}: {num_mandatory} tokens must stay (special, byte, keep and what they are "
            f"built from). Choose {num_mandatory} or more."
        )


def choose(ranking: Ranking, mandatory: Mapping[int, str], vocab_size: int | None) -> IntArray:
    """Ids that stay, ascending; None keeps all."""
    optional_R = _without(ranking.ids_R, mandatory)
    num_optional = optional_R.size if vocab_size is None else vocab_size - len(mandatory)
    forced = np.fromiter(mandatory, dtype=np.int64, count=len(mandatory))
    return np.sort(np.concatenate([forced, optional_R[:num_optional]]))


def size_curve(
    vocabulary: Vocabulary, counts: Counts, mandatory: Mapping[int, str]
) -> tuple[CurvePoint, ...]:
    """Coverage and length at about 24 sizes, for the closed selection by usage.

    tokens(V) = T0 + sum over removed t of U(t) * extra(t);  T0 all tokens counted;  extra(t) = 1,
    or UTF-8 bytes - 1 where t is a single character that falls back to its bytes.
    """
    usage_P = usage(vocabulary, counts.counts_P)
    optional_R = _without(_sorted(vocabulary, usage_P), mandatory)
    extra_R = usage_P[optional_R] * _extra_tokens(vocabulary, optional_R)
    dropped_R = counts.counts_P[optional_R]
    smallest, largest = len(mandatory), len(mandatory) + optional_R.size
    sizes = np.unique(np.geomspace(max(smallest, 1), largest, NUM_CURVE_POINTS).round().astype(int))
    points = []
    for size in sizes:
        kept = size - smallest
        lost = int(dropped_R[kept:].sum()) / counts.num_tokens
        length = counts.num_tokens + int(extra_R[kept:].sum())
        points.append(
            CurvePoint(
                vocab_size=int(size),
                coverage=1.0 - lost,
                tokens_per_byte=length / counts.num_bytes,
            )
        )
    return tuple(points)


def _extra_tokens(vocabulary: Vocabulary, ids_R: IntArray) -> IntArray:
    pieces = (vocabulary.pieces_P[i] or "" for i in ids_R)
    return np.array([len(p.encode()) - 1 if len(p) == 1 else 1 for p in pieces], dtype=np.int64)


def _sorted(vocabulary: Vocabulary, usage_P: IntArray) -> IntArray:
    ids = vocabulary.ids
    keys = (ids, vocabulary.rank_P[ids], vocabulary.length_P[ids], -usage_P[ids])
    return ids[np.lexsort(keys)]  # the last key counts most


def _without(ids_R: IntArray, mandatory: Mapping[int, str]) -> IntArray:
    forced = np.fromiter(mandatory, dtype=np.int64, count=len(mandatory))
    return ids_R[~np.isin(ids_R, forced)]
