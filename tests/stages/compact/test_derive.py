"""Derivations: the merge that really builds a token; and what losing a token costs."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.stages.compact.alternatives import (
    NEEDED,
    unigram_alternatives,
    wordpiece_alternatives,
)
from pocketlm.stages.compact.derive import ATOM, read_vocabulary
from pocketlm.stages.compact.surfaces import script_named, script_of

steady = settings(derandomize=True, deadline=None, max_examples=40)
seeds = given(seed=st.integers(0, 10**6))


def bpe(vocab: dict[str, int], merges: list, **more: bool) -> Tokenizer:
    """A bare BPE over characters."""
    document = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "byte_fallback": False,
            **more,
        },
    }
    return tokenizer_from_document(document, roles={})


def numbered(pieces: str) -> dict[str, int]:
    return {piece: i for i, piece in enumerate(pieces.split())}


def test_of_several_merges_the_first_that_happens_counts() -> None:
    vocabulary = read_vocabulary(
        bpe(numbered("a b c ab bc abc"), [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")])
    )
    assert (vocabulary.left_P[5], vocabulary.right_P[5]) == (0, 4)  # a + bc, although listed last
    assert vocabulary.rank_P[5] == 3
    assert vocabulary.ancestors([5]) == {0, 1, 2, 4, 5}


def test_what_encoding_does_not_reach_is_no_derivation() -> None:
    vocabulary = read_vocabulary(
        bpe(numbered("a b c ab bc abc xyz"), [("b", "c"), ("a", "b"), ("ab", "c")])
    )
    assert vocabulary.left_P[5] == ATOM  # bc is joined first, then nothing joins a
    assert vocabulary.left_P[6] == ATOM
    assert vocabulary.length_P.tolist() == [1, 1, 1, 2, 2, 3, 3]


def test_ids_without_a_token_are_no_tokens() -> None:
    tokenizer = bpe({"a": 0, "b": 3}, [])
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.pieces_P == ["a", None, None, "b"]
    assert vocabulary.surfaces_P == ["a", None, None, "b"]
    assert vocabulary.ids.tolist() == [0, 3]


def test_merges_written_as_strings_are_the_same_merges() -> None:
    vocab = numbered("a b c ab abc")
    pairs = read_vocabulary(bpe(vocab, [("a", "b"), ("ab", "c")]))
    strings = read_vocabulary(bpe(vocab, ["a b", "ab c"]))
    assert strings.rank_P.tolist() == pairs.rank_P.tolist() == [ATOM, ATOM, ATOM, 0, 1]


def test_a_word_looked_up_whole_costs_what_merging_it_gives() -> None:
    vocab, merges = numbered("a b c ab abcab"), [("a", "b")]
    vocabulary = read_vocabulary(bpe(vocab, merges, ignore_merges=True))
    assert vocabulary.left_P.tolist() == [ATOM, ATOM, ATOM, 0, ATOM]
    assert vocabulary.extra_P.tolist() == [1, 1, 1, 1, 2]  # ab c ab for abcab


@seeds
@steady
def test_all_at_once_is_one_by_one(seed: int) -> None:
    """Random merge lists, several merges a token, duplicates among them, in any order."""
    rng = np.random.default_rng(seed)
    pieces = list("abc")
    for _ in range(30):
        joined = "".join(rng.choice(pieces, 2))
        pieces += [joined] if joined not in pieces and len(joined) < 9 else []
    vocab = {piece: i for i, piece in enumerate(pieces)}
    cuts = [(p[:k], p[k:]) for p in pieces for k in range(1, len(p))]
    merges = [cut for cut in cuts if set(cut) <= vocab.keys() and rng.random() < 0.8]
    merges = [merges[i] for i in rng.integers(len(merges), size=2 * len(merges))] if merges else []
    tokenizer = bpe(vocab, merges)
    ranks = {tuple(m): n for n, m in enumerate(tokenizer.document["model"]["merges"])}
    vocabulary = read_vocabulary(tokenizer)
    for piece, i in vocab.items():
        expected = last_merge(piece, ranks)
        found = vocabulary.left_P[i], vocabulary.right_P[i], vocabulary.rank_P[i]
        if expected is None:
            assert found == (ATOM, ATOM, ATOM)
        else:
            left, right, rank = expected
            assert found == (vocab[left], vocab[right], rank)


def last_merge(piece: str, ranks: dict) -> tuple[str, str, int] | None:
    symbols, last = list(piece), None
    while True:
        rank, at = min(
            ((ranks.get(p, len(ranks) * 9), n) for n, p in enumerate(pairwise(symbols))),
            default=(None, None),
        )
        if rank is None:
            return last
        if rank == len(ranks) * 9:
            return None
        last = symbols[at], symbols[at + 1], rank
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


def test_derivations_agree_with_the_library(shared_data: Path) -> None:
    """A token is derived iff the library, given its string, answers with the token itself."""
    tokenizer = load_tokenizer(
        shared_data / "tokenizers/slimpajama-bpe/slimpajama-6B-4096-BPE.model"
    )
    vocabulary = read_vocabulary(tokenizer)
    for i, piece in enumerate(vocabulary.pieces_P):
        assert piece is not None
        if len(piece) > 1:
            reached = [token.id for token in tokenizer.backend.model.tokenize(piece)] == [i]
            assert reached == (vocabulary.left_P[i] != ATOM)


def test_characters_cost_their_bytes(sentencepiece_bpe: Tokenizer, byte_bpe: Tokenizer) -> None:
    vocabulary = read_vocabulary(sentencepiece_bpe)
    vocab = sentencepiece_bpe.backend.get_vocab()
    assert vocabulary.extra_P[vocab["小"]] == 2
    assert vocabulary.extra_P[vocab["e"]] == 1
    plain = np.delete(read_vocabulary(byte_bpe).extra_P, sorted(byte_bpe.special_ids))
    assert (plain == 1).all()


@seeds
@steady
def test_unigram_loses_what_the_library_then_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = {"a", "b", "c", *("".join(rng.choice(list("abc"), n)) for n in rng.integers(2, 7, 40))}
    vocab = [("<unk>", 0.0), *((p, -float(rng.uniform(2, 12))) for p in sorted(pieces))]
    found = unigram_alternatives({"vocab": vocab, "byte_fallback": False}, len(vocab) + 1)
    assert found.log_prob_P is not None
    assert found.second_best_P is not None
    scores = dict(vocab)
    for i, (piece, score) in enumerate(vocab[1:], start=1):
        if len(piece) == 1:
            assert found.extra_P[i] == NEEDED
            continue
        without = [entry for entry in vocab if entry[0] != piece]
        parts = [token.value for token in models.Unigram(without, 0, False).tokenize(piece)]
        best = sum(scores[part] for part in parts)
        assert found.second_best_P[i] == pytest.approx(best)
        assert found.extra_P[i] == (len(parts) - 1 if best <= score else 0)
        own = [token.value for token in models.Unigram(vocab, 0, False).tokenize(piece)]
        assert (own == [piece]) == (found.extra_P[i] > 0)


def test_unigram_falls_to_bytes_where_it_has_them() -> None:
    entries = [("<unk>", 0.0), ("好", -3.0), ("好a", -4.0), ("a", -2.0)]
    entries += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    found = unigram_alternatives({"vocab": entries, "byte_fallback": True}, len(entries))
    assert found.extra_P[1:4].tolist() == [2, 1, 0]  # the last: one byte for one token
    alone = unigram_alternatives({"vocab": entries[:3], "byte_fallback": False}, 3)
    assert alone.extra_P.tolist() == [NEEDED] * 3


@seeds
@steady
def test_wordpiece_loses_what_the_library_then_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = {"".join(rng.choice(list("ab"), n)) for n in rng.integers(1, 6, 20)}
    pieces = ["[UNK]", "a", "##a", "##b", *sorted({f"##{w}" for w in words} - {"##a", "##b"})]
    pieces += sorted(words - {"a"})
    vocab = {piece: i for i, piece in enumerate(pieces)}
    model = {"vocab": vocab, "continuing_subword_prefix": "##"}
    found = wordpiece_alternatives(model, len(pieces))
    for piece in sorted(words):
        others = {p: i for p, i in vocab.items() if p != piece}
        library = models.WordPiece(others, unk_token="[UNK]", max_input_chars_per_word=100)
        parts = [token.value for token in library.tokenize(piece)]
        expected = NEEDED if parts == ["[UNK]"] else len(parts) - 1
        assert found.extra_P[vocab[piece]] == expected


def test_wordpiece_inside_a_word() -> None:
    vocab = numbered("[UNK] a ##a ##b ##ab ##abab")
    found = wordpiece_alternatives({"vocab": vocab, "continuing_subword_prefix": "##"}, 6)
    assert found.extra_P[3:].tolist() == [NEEDED, 1, 1]


def test_surfaces_are_the_text(byte_bpe: Tokenizer, sentencepiece_bpe: Tokenizer) -> None:
    for tokenizer in (byte_bpe, sentencepiece_bpe):
        surfaces_P = read_vocabulary(tokenizer).surfaces_P
        for text in (" the", "数"):
            surfaces = [surfaces_P[i] for i in tokenizer.encode(text)]
            assert None in surfaces or "".join(filter(None, surfaces)) == text
        assert all(surfaces_P[i] is None for i in tokenizer.special_ids)
    vocab = sentencepiece_bpe.backend.get_vocab()
    assert read_vocabulary(sentencepiece_bpe).surfaces_P[vocab["<0x41>"]] is None
    half = byte_bpe.backend.model.tokenize("å")[0].id  # the byte E5
    assert read_vocabulary(byte_bpe).surfaces_P[half] is None


def test_surfaces_of_wordpiece(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "tokenizers/bert-base-chinese")
    vocabulary = read_vocabulary(tokenizer)
    vocab = tokenizer.backend.get_vocab()
    assert [vocabulary.surfaces_P[vocab[p]] for p in ("##ing", "中", "[CLS]")] == [
        "ing",
        "中",
        None,
    ]
    assert vocabulary.family == "wordpiece"
    assert (vocabulary.left_P == ATOM).all()


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (" The", "LATIN"),
        ("naïve", "LATIN"),
        ("ＡＢ", "LATIN"),
        ("中文，", "HAN"),
        ("々", "HAN"),
        ("ｶﾀ", "KATAKANA"),
        ("한글", "HANGUL"),
        ("हिन्दी", "DEVANAGARI"),
        ("中a", None),
        ("12 %", None),
        ("e\u0301", "LATIN"),
        ("\u0301", None),
        ("𝐀", None),
    ],
)
def test_scripts(text: str, script: str | None) -> None:
    assert script_of(text) == script


def test_scripts_have_several_names() -> None:
    assert script_named("cjk") == script_named(" Han") == "HAN"
    assert script_named("latin") == "LATIN"
