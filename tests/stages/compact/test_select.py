"""Usage, its order, and the curve of sizes."""

import numpy as np
import pytest

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.stages.compact.count import count_tokens
from pocketlm.stages.compact.derive import ATOM, Vocabulary, read_vocabulary
from pocketlm.stages.compact.mandatory import mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import by_usage, choose, size_curve, usage


def vocabulary_of(pieces: list[str], derivations: dict[int, tuple[int, int, int]]) -> Vocabulary:
    table_P3 = np.full((len(pieces), 3), ATOM)
    for i, derivation in derivations.items():
        table_P3[i] = derivation
    return Vocabulary(
        pieces_P=pieces,
        left_P=table_P3[:, 0],
        right_P=table_P3[:, 1],
        rank_P=table_P3[:, 2],
        length_P=np.array([len(piece) for piece in pieces]),
    )


def test_usage_by_hand() -> None:
    # abab = ab + ab; its half ab has the later rank, as in real vocabularies
    vocabulary = vocabulary_of(["a", "b", "ab", "abab"], {2: (0, 1, 1), 3: (2, 2, 0)})
    assert usage(vocabulary, np.array([5, 1, 2, 3])).tolist() == [13, 9, 8, 3]


def test_ties_go_to_the_shorter_then_to_the_earlier_merge() -> None:
    vocabulary = vocabulary_of(["x", "xy", "y", "yx"], {1: (0, 2, 1), 3: (2, 0, 0)})
    assert by_usage(vocabulary, np.zeros(4, dtype=np.int64)).ids_R.tolist() == [0, 2, 3, 1]


def test_usage_puts_halves_before_what_they_build(tokenizer: Tokenizer, corpus) -> None:
    vocabulary = read_vocabulary(tokenizer)
    counts = count_tokens(tokenizer, corpus.texts("train"))
    place = {int(i): n for n, i in enumerate(by_usage(vocabulary, counts.counts_P).ids_R)}
    for i in np.flatnonzero(vocabulary.left_P != ATOM).tolist():
        halves = (vocabulary.left_P[i], vocabulary.right_P[i])
        assert all(place[int(half)] < place[i] for half in halves)


def test_curve_foretells_the_length(tokenizer: Tokenizer, corpus) -> None:
    vocabulary = read_vocabulary(tokenizer)
    counts = count_tokens(tokenizer, corpus.texts("train"))
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=())
    ranking = by_usage(vocabulary, counts.counts_P)
    curve = size_curve(vocabulary, counts, mandatory)
    for point in curve[len(curve) // 2 :: 4]:
        kept_V = choose(ranking, mandatory, point.vocab_size)
        child = rebuild(tokenizer, kept_V)
        measured = count_tokens(child, corpus.texts("train"))
        assert point.tokens_per_byte == pytest.approx(measured.tokens_per_byte, rel=0.02)
        kept_share = counts.counts_P[kept_V].sum() / counts.num_tokens
        assert point.coverage == pytest.approx(float(kept_share))


def test_curve_is_monotone_and_ends_at_the_parent(tokenizer: Tokenizer, corpus) -> None:
    vocabulary = read_vocabulary(tokenizer)
    counts = count_tokens(tokenizer, corpus.texts("train"))
    curve = size_curve(vocabulary, counts, mandatory_tokens(tokenizer, vocabulary, keep=()))
    assert 12 < len(curve) <= 24
    sizes, lengths = zip(*((p.vocab_size, p.tokens_per_byte) for p in curve), strict=True)
    assert list(sizes) == sorted(set(sizes))
    assert list(lengths) == sorted(lengths, reverse=True)
    assert (sizes[-1], curve[-1].coverage) == (tokenizer.num_tokens, 1.0)
    assert lengths[-1] == counts.tokens_per_byte
