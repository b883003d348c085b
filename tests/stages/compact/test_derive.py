"""Derivations: the merge that really builds a token."""

from pathlib import Path

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.stages.compact.derive import ATOM, read_vocabulary


def bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
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
    assert vocabulary.ids.tolist() == [0, 3]


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
