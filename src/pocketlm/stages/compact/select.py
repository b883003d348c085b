"""Which tokens stay: the mandatory ones, then the best of a ranking.

Usage (ours; leaf pruning with parent credit, Purason et al. 2025, in one pass):
    U(t) = F(t) + sum of U over the tokens built from t, per half
    F(t) final count on the corpus, in tokens.
U of a token's halves is never below its own and they are shorter, so the largest by (U desc,
length asc, rank asc) are closed under derivation and nested: one count serves every size. So is
U(t) extra(t), because only what is built from nothing has extra(t) > 1.
Shapes: P parent ids, V kept ids, R ranked ids.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketlm.errors import RecipeError
from pocketlm.method import Method
from pocketlm.stages.compact.derive import ATOM, Vocabulary

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
SMOOTHING = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the prior that `smoothed` chooses from."""
SMOOTHING_SHARES = (0.75, 0.5, 0.25)
"""Shares of the vocabulary at which it compares them."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a selector may look at: the parent's tokens in two parts of the corpus."""

    train_P: IntArray
    choose_P: IntArray


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All tokens, the most wanted first."""

    ids_R: IntArray
    closed: bool
    """Whether every token comes after the tokens it is built from."""
    note: str = ""
    """What the selector found out, such as `lambda 0.01`."""


Selector = Callable[[Vocabulary, Observed], Ranking]


def by_usage(vocabulary: Vocabulary, observed: Observed) -> Ranking:
    """The tokens that most of the text is built through.

    U(t) extra(t), where U(t) is F(t) for Unigram and WordPiece (nothing is built from a piece) and
    extra(t) is what a use costs without t: 1 more token in a BPE, or a character's bytes - 1.
    """
    score_P = usage(vocabulary, observed.train_P) * vocabulary.extra_P
    return Ranking(ids_R=_sorted(vocabulary, score_P), closed=True)


def by_frequency(vocabulary: Vocabulary, observed: Observed) -> Ranking:
    """The most frequent final pieces. In a BPE what they are built from may go: dead tokens.

    F(t), as in the paper's scripts.
    """
    ids = vocabulary.ids
    order = np.lexsort((ids, -observed.train_P[ids]))
    return Ranking(ids_R=ids[order], closed=not _has_merges(vocabulary))


def by_last_merges(vocabulary: Vocabulary, observed: Observed) -> Ranking:
    """The earliest merges, whatever the text; the last ones go.

    By the largest rank over a token and all it is built from, since halves may have a later rank
    than what they build. Raises `RecipeError` where there are no merges.
    """
    if not _has_merges(vocabulary):
        raise RecipeError(
            f"[compact] select = 'last-merges': {vocabulary.family} has no merges; "
            "take usage, frequency or smoothed"
        )
    return Ranking(ids_R=_parents_order(vocabulary), closed=True)


def by_smoothed_usage(vocabulary: Vocabulary, observed: Observed) -> Ranking:
    """Usage with a prior that helps where the text is short; its weight is chosen on other text.

    U(t) + lambda U0(t), times extra(t). U0(t) = 1 / ((1 + place) length): Zipf over the parent's
    own order, with the total of U, and less for long tokens, which other texts need less. Halves
    come first in that order and are shorter, so it is closed as U is. lambda is the one of
    `SMOOTHING` whose removed tokens cost the choosing text least, summed over `SMOOTHING_SHARES`.
    """
    train_P = usage(vocabulary, observed.train_P)
    prior_P = np.zeros(train_P.size)
    order_R = _parents_order(vocabulary)
    lengths_R = np.maximum(vocabulary.length_P[order_R], 1)
    prior_P[order_R] = 1.0 / ((1.0 + np.arange(order_R.size)) * lengths_R)
    prior_P *= train_P.sum() / prior_P.sum()
    cost_P = usage(vocabulary, observed.choose_P) * vocabulary.extra_P
    num_kept = [round(share * order_R.size) for share in SMOOTHING_SHARES]
    best: tuple[int, float, IntArray] | None = None
    for weight in SMOOTHING:
        ids_R = _sorted(vocabulary, (train_P + weight * prior_P) * vocabulary.extra_P)
        cost = sum(int(cost_P[ids_R[kept:]].sum()) for kept in num_kept)
        if best is None or cost < best[0]:
            best = cost, weight, ids_R
    assert best is not None
    return Ranking(ids_R=best[2], closed=True, note=f"lambda {best[1]:g}")


def by_unigram_loss(vocabulary: Vocabulary, observed: Observed) -> Ranking:
    """The pieces whose loss would make the text least likely: SentencePiece's own pruning.

    F(t) (log p(t) - log p(best segmentation without t)), never below 0: Unigram only. Raises
    `RecipeError` elsewhere. SentencePiece's trainer also moves the counts over; the scores here
    stay, as they do in the child.
    """
    if vocabulary.log_prob_P is None or vocabulary.second_best_P is None:
        raise RecipeError(
            f"[compact] select = 'unigram-loss': {vocabulary.family} has no piece probabilities; "
            "take usage, frequency or smoothed"
        )
    lost_P = np.maximum(vocabulary.log_prob_P - vocabulary.second_best_P, 0.0)
    return Ranking(ids_R=_sorted(vocabulary, observed.train_P * lost_P), closed=True)


SELECTORS: dict[str, Method[Selector]] = {
    "usage": Method(by_usage, paper="ours; one-pass form of leaf pruning, Purason et al. 2025"),
    "frequency": Method(by_frequency, paper="arXiv 2402.02791, compact tokenizer"),
    "last-merges": Method(by_last_merges, paper="Purason et al. 2025, baseline"),
    "smoothed": Method(by_smoothed_usage, paper="ours; usage with a Zipf prior"),
    "unigram-loss": Method(by_unigram_loss, paper="Kudo 2018 (arXiv 1804.10959), section 3.2"),
}


def usage(vocabulary: Vocabulary, counts_P: IntArray) -> IntArray:
    """U by id: from long tokens to short ones, since halves are shorter than what they build."""
    usage_P = counts_P.copy()
    for ids in reversed(vocabulary.built_by_length):
        np.add.at(usage_P, vocabulary.left_P[ids], usage_P[ids])
        np.add.at(usage_P, vocabulary.right_P[ids], usage_P[ids])
    return usage_P


def largest_above(vocabulary: Vocabulary, value_P: IntArray) -> IntArray:
    """By id: the largest value of the token and of everything it is built from."""
    largest_P = value_P.copy()
    for ids in vocabulary.built_by_length:
        halves = largest_P[vocabulary.left_P[ids]], largest_P[vocabulary.right_P[ids]]
        largest_P[ids] = np.maximum(largest_P[ids], np.maximum(*halves))
    return largest_P


def choose(ranking: Ranking, mandatory: Mapping[int, str], vocab_size: int | None) -> IntArray:
    """Ids that stay, ascending; None keeps all."""
    optional_R = optional(ranking, mandatory)
    num_optional = optional_R.size if vocab_size is None else vocab_size - len(mandatory)
    forced = np.fromiter(mandatory, dtype=np.int64, count=len(mandatory))
    return np.sort(np.concatenate([forced, optional_R[:num_optional]]))


def optional(ranking: Ranking, mandatory: Mapping[int, str]) -> IntArray:
    """The ranked ids that may go."""
    forced = np.fromiter(mandatory, dtype=np.int64, count=len(mandatory))
    return ranking.ids_R[~np.isin(ranking.ids_R, forced)]


def _has_merges(vocabulary: Vocabulary) -> bool:
    return vocabulary.family.endswith("bpe")


def _parents_order(vocabulary: Vocabulary) -> IntArray:
    """Ids as the parent's own training found them: characters, then merges; Unigram by score,
    WordPiece by id. Tokens of several characters that no merge builds come last."""
    ids = vocabulary.ids
    if vocabulary.log_prob_P is not None:
        return ids[np.lexsort((ids, -vocabulary.log_prob_P[ids]))]
    if not _has_merges(vocabulary):
        return ids
    unbuilt_P = (vocabulary.left_P == ATOM) & (vocabulary.length_P > 1)
    rank_P = np.where(unbuilt_P, np.iinfo(np.int64).max, vocabulary.rank_P)
    return _sorted(vocabulary, -largest_above(vocabulary, rank_P))


def _sorted(vocabulary: Vocabulary, score_P: IntArray | FloatArray) -> IntArray:
    """By (score desc, length asc, rank asc, id asc)."""
    ids = vocabulary.ids
    keys = (ids, vocabulary.rank_P[ids], vocabulary.length_P[ids], -score_P[ids])
    return ids[np.lexsort(keys)]  # the last key counts most
