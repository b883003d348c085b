"""Tokenizers as llama.cpp wants them."""

import json
from dataclasses import replace

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import UserError
from pocketlm.stages.export import check_tokenizer
from pocketlm.stages.export.vocabulary import (
    LLAMA3_SPLIT,
    QWEN2_SPLIT,
    PieceType,
    normalised,
    vocabulary_of,
)


def _sentence(vocab: dict[str, int], merges: list[tuple[str, str]], **settings) -> Tokenizer:
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.add_special_tokens(["<unk>", "<s>"])
    return Tokenizer(backend=backend, bos_id=1, unk_id=0, **settings)


def _byte_level(split: str | None, **model) -> Tokenizer:
    trained = train_tokenizer(iter(["some text, 1234 of it"] * 3), vocab_size=300)
    table = json.loads(trained.backend.to_str())
    table["model"] |= model
    backend = tokenizers.Tokenizer.from_str(json.dumps(table))
    if split is not None:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return replace(trained, backend=backend)


def test_earlier_merges_score_higher() -> None:
    vocab = {"<unk>": 0, "<s>": 1, "<0x41>": 2, "a": 3, "b": 4, "▁": 5, "ab": 6, "▁ab": 7, "ba": 8}
    own = vocabulary_of(_sentence(vocab, [("a", "b"), ("b", "a"), ("▁", "ab")]), 9)
    score = dict(zip(own.pieces, own.scores, strict=True))
    assert score["ab"] > score["ba"] > score["▁ab"] > score["a"]
    types = dict(zip(own.pieces, own.types, strict=True))
    assert types["<unk>"] is PieceType.UNKNOWN
    assert types["<s>"] is PieceType.CONTROL
    assert types["<0x41>"] is PieceType.BYTE
    assert types["ab"] is PieceType.NORMAL
    assert own.add_space_prefix
    assert own.has_bytes


def test_of_several_merges_the_one_that_is_used_counts() -> None:
    """`abc` can be a+bc or ab+c; its own string is cut by ab first, so ab+c completes it."""
    vocab = {p: i for i, p in enumerate(["<unk>", "<s>", "a", "b", "c", "ab", "bc", "abc"])}
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]
    own = vocabulary_of(_sentence(vocab, merges), 8)
    assert own.scores[vocab["abc"]] == -3


def test_rows_beyond_the_tokenizer_become_unused_pieces(tokenizer) -> None:
    own = vocabulary_of(tokenizer, tokenizer.num_tokens + 2)
    assert own.types[-2:] == (PieceType.UNUSED, PieceType.UNUSED)
    assert len(set(own.pieces)) == len(own.pieces) == tokenizer.num_tokens + 2


@pytest.mark.parametrize(
    ("split", "ignore_merges", "name"),
    [
        (None, False, "gpt-2"),
        (LLAMA3_SPLIT, True, "llama-bpe"),
        (LLAMA3_SPLIT, False, "dbrx"),
        (QWEN2_SPLIT, False, "qwen2"),
    ],
)
def test_the_split_decides_the_pre_tokenizer(split, ignore_merges, name) -> None:
    own = vocabulary_of(_byte_level(split, ignore_merges=ignore_merges), 300)
    assert (own.model, own.pre) == ("gpt2", name)
    assert own.merges[0] == "t e" or " " in own.merges[0]


def test_digits_before_the_gpt2_split_are_smollm(tokenizer) -> None:
    other = _byte_level(None)
    other.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert vocabulary_of(other, 300).pre == "smollm"


def test_what_has_no_equal_is_refused_in_one_line() -> None:
    def refused(tokenizer: Tokenizer, why: str) -> None:
        with pytest.raises(UserError, match=why) as error:
            vocabulary_of(tokenizer, 300)
        assert "\n" not in str(error.value)

    refused(_byte_level(r"\w+"), "no name for its split")
    refused(_byte_level(QWEN2_SPLIT, ignore_merges=True), "no name for its split")
    lower = _byte_level(None)
    lower.backend.normalizer = normalizers.Lowercase()
    refused(lower, "normaliser Lowercase")
    blank = _byte_level(None)
    blank.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    refused(blank, "step ByteLevel")
    words = _byte_level(None)
    words.backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words.backend.decoder = decoders.WordPiece()
    refused(words, "step Whitespace")
    bare = _byte_level(None)
    bare.backend.pre_tokenizer = None
    refused(bare, "neither byte-level nor")


def test_the_written_form_is_what_gets_cut() -> None:
    sentence = _sentence({"<unk>": 0, "<s>": 1, "▁": 2}, [])
    own = vocabulary_of(sentence, 3)
    assert not own.has_bytes
    for text in ("a b", " a", "", "a  b "):
        assert normalised(sentence, text) == own.as_written(text)
    sentence.backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    assert normalised(sentence, "Ａ") != own.as_written("Ａ")


def test_composing_normalisers_are_told_apart_by_text() -> None:
    composing = _byte_level(None)
    composing.backend.normalizer = normalizers.NFC()
    own = vocabulary_of(composing, 300)
    assert normalised(composing, "é") == own.as_written("é")
    assert normalised(composing, "e\u0301") != own.as_written("e\u0301")


def test_real_sentencepiece_scores_are_recovered_in_order(shared_data) -> None:
    """SentencePiece writes a score per piece; ours must order any two pieces the same way."""
    from sentencepiece import SentencePieceProcessor

    path = shared_data / "tokenizers" / "slimpajama-bpe" / "slimpajama-6B-4096-BPE.model"
    own = vocabulary_of(load_tokenizer(path), 4096)
    real = SentencePieceProcessor(model_file=str(path))
    merged = [
        i for i, k in enumerate(own.types) if k is PieceType.NORMAL and len(own.pieces[i]) > 1
    ]
    assert len(merged) > 3000
    by_own = sorted(merged, key=lambda i: -own.scores[i])
    assert by_own == sorted(merged, key=lambda i: -real.get_score(i))


def test_a_tokenizer_is_refused_before_any_work() -> None:
    odd = _byte_level(r"\w+")
    check_tokenizer(["huggingface"], odd)
    check_tokenizer(["gguf-q4_0"], _byte_level(QWEN2_SPLIT))
    with pytest.raises(UserError, match="no name for its split"):
        check_tokenizer(["huggingface", "gguf-q4_0"], odd)
