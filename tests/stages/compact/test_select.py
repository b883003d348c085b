"""The order in which tokens stay: closed, nested, the same each time, and short."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact.derive import ATOM, Vocabulary, read_vocabulary
from pocketlm.stages.compact.select import (
    SELECTORS,
    SMOOTHING,
    Observed,
    by_last_merges,
    by_smoothed_usage,
    by_unigram_loss,
    by_usage,
    choose,
    usage,
)

CLOSED = ("usage", "last-merges", "smoothed")
steady = settings(derandomize=True, deadline=None, max_examples=40)
seeds = given(seed=st.integers(0, 10**6))


def vocabulary_of(
    pieces: list[str | None], derivations: dict[int, tuple[int, int, int]], **more
) -> Vocabulary:
    table_P3 = np.full((len(pieces), 3), ATOM)
    for i, derivation in derivations.items():
        table_P3[i] = derivation
    fields = {
        "family": "sentencepiece-bpe",
        "surfaces_P": pieces,
        "extra_P": np.ones(len(pieces), dtype=np.int64),
    }
    return Vocabulary(
        pieces_P=pieces,
        left_P=table_P3[:, 0],
        right_P=table_P3[:, 1],
        rank_P=table_P3[:, 2],
        length_P=np.array([len(piece or "") for piece in pieces]),
        **{**fields, **more},
    )


def random_vocabulary(rng: np.random.Generator) -> Vocabulary:
    """Letters of 1 to 3 extra tokens, merges in random order, ids in random order, a hole."""
    pieces = list("abcde")
    merges: dict[str, tuple[str, str]] = {}
    for _ in range(40):
        left, right = rng.choice(pieces, 2)
        if left + right not in pieces and len(left + right) < 12:
            pieces.append(left + right)
            merges[left + right] = left, right
    order = rng.permutation([*pieces, "xyz", ""]).tolist()  # xyz: nothing builds it
    ids = {piece: i for i, piece in enumerate(order)}
    ranks = rng.permutation(len(merges)).tolist()
    derivations = {
        ids[piece]: (ids[left], ids[right], rank)
        for (piece, (left, right)), rank in zip(merges.items(), ranks, strict=True)
    }
    extra_P = np.array([rng.integers(1, 4) if len(piece) == 1 else 1 for piece in order])
    return vocabulary_of([piece or None for piece in order], derivations, extra_P=extra_P)


def random_counts(rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    counts_P = rng.zipf(1.5, len(vocabulary.pieces_P)).clip(max=1000) - 1  # many zeros and ties
    return np.where([piece is None for piece in vocabulary.pieces_P], 0, counts_P)


def random_case(seed: int) -> tuple[Vocabulary, Observed]:
    rng = np.random.default_rng(seed)
    vocabulary = random_vocabulary(rng)
    observed = Observed(
        train_P=random_counts(rng, vocabulary), choose_P=random_counts(rng, vocabulary)
    )
    return vocabulary, observed


def test_usage_by_hand() -> None:
    # abab = ab + ab; its half ab has the later rank, as in real vocabularies
    vocabulary = vocabulary_of(["a", "b", "ab", "abab"], {2: (0, 1, 1), 3: (2, 2, 0)})
    assert usage(vocabulary, np.array([5, 1, 2, 3])).tolist() == [13, 9, 8, 3]


@pytest.mark.parametrize("select", CLOSED)
def test_ties_go_to_the_shorter_then_to_the_earlier_merge(select: str) -> None:
    vocabulary = vocabulary_of(["x", "xy", "y", "yx"], {1: (0, 2, 1), 3: (2, 0, 0)})
    nothing = np.zeros(4, dtype=np.int64)
    ranking = SELECTORS[select].function(vocabulary, Observed(train_P=nothing, choose_P=nothing))
    assert ranking.ids_R.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("select", CLOSED)
@seeds
@steady
def test_halves_come_before_what_they_build(select: str, seed: int) -> None:
    vocabulary, observed = random_case(seed)
    ranking = SELECTORS[select].function(vocabulary, observed)
    assert ranking.closed
    assert sorted(ranking.ids_R.tolist()) == vocabulary.ids.tolist()
    place = {int(i): n for n, i in enumerate(ranking.ids_R)}
    for i in np.flatnonzero(vocabulary.left_P != ATOM).tolist():
        assert place[int(vocabulary.left_P[i])] < place[i]
        assert place[int(vocabulary.right_P[i])] < place[i]


@pytest.mark.parametrize("select", [*CLOSED, "frequency"])
@seeds
@steady
def test_sizes_are_nested_and_the_same_each_time(select: str, seed: int) -> None:
    vocabulary, observed = random_case(seed)
    selector = SELECTORS[select].function
    ranking, again = selector(vocabulary, observed), selector(vocabulary, observed)
    assert ranking.ids_R.tolist() == again.ids_R.tolist()
    forced = dict.fromkeys(vocabulary.ancestors([int(vocabulary.ids[-1])]), "keep")
    sizes = range(len(forced), vocabulary.ids.size + 1)
    kept = [choose(ranking, forced, size).tolist() for size in sizes]
    assert [len(ids) for ids in kept] == list(sizes)
    assert all(ids == sorted(ids) and forced.keys() <= set(ids) for ids in kept)
    assert all(set(few) < set(more) for few, more in pairwise(kept))
    assert choose(ranking, forced, None).tolist() == vocabulary.ids.tolist()


@seeds
@steady
def test_usage_is_leaf_pruning_with_parent_credit(seed: int) -> None:
    """Remove the token of least use that builds nothing; its halves then stand in its place."""
    vocabulary, observed = random_case(seed)
    kept, uses = set(vocabulary.ids.tolist()), observed.train_P.copy()
    removed = []
    while kept:
        halves = {int(h[i]) for i in kept for h in (vocabulary.left_P, vocabulary.right_P)}
        least = max(
            kept - halves,
            key=lambda i: (
                -uses[i] * vocabulary.extra_P[i],
                vocabulary.length_P[i],
                vocabulary.rank_P[i],
                i,
            ),
        )
        kept.remove(least)
        removed.append(least)
        if vocabulary.left_P[least] != ATOM:
            uses[vocabulary.left_P[least]] += uses[least]
            uses[vocabulary.right_P[least]] += uses[least]
    assert by_usage(vocabulary, observed).ids_R.tolist() == removed[::-1]


def test_usage_is_as_short_as_exact_greedy_pruning(corpus) -> None:
    """Greedy: re-segment all text without each leaf in turn, and drop the cheapest."""
    text = "\n".join(corpus.texts("train"))[:12_000]
    tokenizer = train_tokenizer(iter([text]), vocab_size=330)
    words = Counter(w for w, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text))
    merges = {tuple(merge): n for n, merge in enumerate(tokenizer.document["model"]["merges"])}
    vocabulary = read_vocabulary(tokenizer)
    ids = {piece: i for i, piece in enumerate(vocabulary.pieces_P)}
    by_rank = [ids["".join(merge)] for merge in merges]
    counts_P = np.zeros(len(ids), dtype=np.int64)
    for word, count in words.items():
        for piece in segment(word, merges):
            counts_P[ids[piece]] += count
    ranking = by_usage(vocabulary, Observed(train_P=counts_P, choose_P=counts_P))
    ours = dict(merges)
    greedy, spelled = dict(merges), {word: segment(word, merges) for word in words}
    for gone in [i for i in ranking.ids_R.tolist() if i in set(by_rank)][: -len(by_rank) // 2 : -1]:
        ours.pop(next(m for m in ours if ids["".join(m)] == gone))
        spelled, greedy = drop_cheapest(spelled, greedy, words)
        exact = sum(words[word] * len(pieces) for word, pieces in spelled.items())
        assert sum(n * len(segment(word, ours)) for word, n in words.items()) <= 1.005 * exact


def drop_cheapest(spelled: dict, merges: dict, words: Counter) -> tuple[dict, dict]:
    halves = {half for merge in merges for half in merge}
    best = None
    for leaf in [merge for merge in merges if "".join(merge) not in halves]:
        left = {merge: rank for merge, rank in merges.items() if merge != leaf}
        piece = "".join(leaf)
        changed = {w: segment(w, left) for w, pieces in spelled.items() if piece in pieces}
        cost = sum(words[w] * (len(pieces) - len(spelled[w])) for w, pieces in changed.items())
        if best is None or cost < best[0]:
            best = cost, changed, left
    assert best is not None
    return {**spelled, **best[1]}, best[2]


def segment(word: str, merges: dict) -> list[str]:
    pieces = list(word)
    while True:
        ranked = [(merges[p], n) for n, p in enumerate(pairwise(pieces)) if p in merges]
        if not ranked:
            return pieces
        at = min(ranked)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def test_frequency_leaves_halves_out() -> None:
    vocabulary = vocabulary_of(["a", "b", "ab"], {2: (0, 1, 0)})
    counts_P = np.array([0, 0, 9])
    ranking = SELECTORS["frequency"].function(
        vocabulary, Observed(train_P=counts_P, choose_P=counts_P)
    )
    assert (ranking.ids_R[0], ranking.closed) == (2, False)


def test_last_merges_are_the_parents_order(byte_bpe: Tokenizer) -> None:
    vocabulary = read_vocabulary(byte_bpe)
    nothing = np.zeros(len(vocabulary.pieces_P), dtype=np.int64)
    ids_R = by_last_merges(vocabulary, Observed(train_P=nothing, choose_P=nothing)).ids_R
    ranks = [int(vocabulary.rank_P[i]) for i in ids_R if vocabulary.left_P[i] != ATOM]
    assert ranks == sorted(ranks)


@seeds
@steady
def test_smoothing_is_none_where_both_texts_are_one(seed: int) -> None:
    vocabulary, observed = random_case(seed)
    same = Observed(train_P=observed.train_P, choose_P=observed.train_P)
    ranking = by_smoothed_usage(vocabulary, same)
    assert ranking.note == "lambda 0"
    assert ranking.ids_R.tolist() == by_usage(vocabulary, same).ids_R.tolist()


def test_smoothing_helps_where_the_text_says_nothing() -> None:
    """Of four merges one is trained on; the other text uses the earliest of the rest, the
    longest."""
    pieces = ["a", "b", "ab", "ba", "aa", "aba", "bab", "aaaa"]
    derivations = {2: (0, 1, 3), 3: (1, 0, 2), 4: (0, 0, 0), 5: (2, 0, 5), 6: (1, 2, 4)}
    vocabulary = vocabulary_of(pieces, {**derivations, 7: (4, 4, 1)})
    train_P = np.array([9, 9, 9, 0, 0, 0, 0, 0])
    choose_P = np.array([0, 0, 0, 0, 0, 0, 0, 9])
    ranking = by_smoothed_usage(vocabulary, Observed(train_P=train_P, choose_P=choose_P))
    assert ranking.note.removeprefix("lambda ") in {f"{weight:g}" for weight in SMOOTHING[1:]}
    place = ranking.ids_R.tolist().index
    usage_ids = by_usage(vocabulary, Observed(train_P=train_P, choose_P=choose_P)).ids_R.tolist()
    assert place(7) < usage_ids.index(7)


def unigram(pieces: list[str], log_probs: list[float], second_best: list[float]) -> Vocabulary:
    return vocabulary_of(
        pieces,
        {},
        family="unigram",
        extra_P=np.array([0, 1, 2]),
        log_prob_P=np.array(log_probs),
        second_best_P=np.array(second_best),
    )


def test_unigram_selectors_by_hand() -> None:
    vocabulary = unigram(["ab", "cd", "efg"], [-5.0, -2.0, -3.0], [-4.0, -9.0, -6.0])
    observed = Observed(train_P=np.array([90, 10, 12]), choose_P=np.array([1, 1, 1]))
    assert by_unigram_loss(vocabulary, observed).ids_R.tolist() == [1, 2, 0]  # 70, 36, 0
    assert by_usage(vocabulary, observed).ids_R.tolist() == [2, 1, 0]  # 24, 10, 0
    assert all(
        SELECTORS[name].function(vocabulary, observed).closed
        for name in ("usage", "frequency", "smoothed", "unigram-loss")
    )


def test_selectors_refuse_other_families() -> None:
    nothing = Observed(train_P=np.zeros(3, dtype=int), choose_P=np.zeros(3, dtype=int))
    with pytest.raises(RecipeError, match="'last-merges': unigram has no merges; take usage"):
        by_last_merges(unigram(["a", "b", "c"], [-1.0] * 3, [-2.0] * 3), nothing)
    with pytest.raises(RecipeError, match="'unigram-loss': sentencepiece-bpe has no piece prob"):
        by_unigram_loss(vocabulary_of(["a", "b", "c"], {}), nothing)
