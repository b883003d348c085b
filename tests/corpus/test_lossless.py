"""Lossless is never claimed wrongly, and damage is told in one line."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.document import (
    added_token,
    byte_characters,
    byte_level,
    replace_step,
    sequence,
)
from pocketlm.corpus.lossless import BYTE_PIECES
from pocketlm.corpus.tokenizer import tokenizer_from_document
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import ParentError
from pocketlm.stages.compact.fuzz import fuzz_texts

steady = settings(derandomize=True, deadline=None, max_examples=40)

SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\s"}, "invert": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "split": True}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
FROM_MARKS = [replace_step({"String": "▁"}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
NORMALIZERS = [
    None,
    {"type": "NFC"},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "ByteLevel"},
    replace_step({"String": " "}, "▁"),
    replace_step({"String": "a"}, "b"),
]
PRE_TOKENIZERS = [
    None,
    *(byte_level(add_prefix_space=prefix, use_regex=False) for prefix in (True, False)),
    *({**METASPACE, "prepend_scheme": scheme} for scheme in ("never", "first", "always")),
    *(
        sequence("pretokenizers", [{**SPLIT, "behavior": how}, byte_level(use_regex=False)])
        for how in ("Isolated", "Removed", "MergedWithNext")
    ),
    {"type": "Digits", "individual_digits": True},
    {"type": "Whitespace"},
]
DECODERS = [
    None,
    byte_level(),
    *({**METASPACE, "prepend_scheme": scheme} for scheme in ("never", "always")),
    sequence("decoders", FROM_MARKS),
    sequence("decoders", [*FROM_MARKS, STRIP]),
    sequence("decoders", [byte_level(), STRIP]),
    {"type": "ByteFallback"},
]
_CHARACTERS = (" ", "▁", *"abehtxĠ\n", "th", "he", "the", "▁the", "▁▁")
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


def document_of(model: dict, before: dict | None, after: dict | None, **more: Any) -> dict:
    places = {"normalizer": None, "post_processor": None, "added_tokens": [], **more}
    return {"version": "1.0", "pre_tokenizer": before, "decoder": after, "model": model, **places}


def over_bytes() -> dict[str, Any]:
    vocab = {character: i for i, character in enumerate(byte_characters().values())}
    return {"type": "BPE", "vocab": {**vocab, "Ġt": 256}, "merges": [["Ġ", "t"]]}


def over_characters(kind: str, fallback: bool) -> dict[str, Any]:
    pieces = ["<unk>", *BYTE_PIECES, *_CHARACTERS]
    if kind == "Unigram":
        scored = [[piece, -5.0] for piece in pieces]
        return {"type": "Unigram", "unk_id": 0, "byte_fallback": fallback, "vocab": scored}
    return {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": fallback,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "▁"]],
    }


MODELS = st.builds(over_bytes) | st.builds(
    over_characters, st.sampled_from(["BPE", "Unigram"]), st.booleans()
)
ADDED = st.tuples(
    st.sampled_from(["<x>", "hello", "▁▁▁", "  ", "é"]),
    st.booleans(),
    st.fixed_dictionaries({name: st.booleans() for name in _FLAGS}),
)


@given(
    model=MODELS,
    normalizer=st.sampled_from(NORMALIZERS),
    pre_tokenizer=st.sampled_from(PRE_TOKENIZERS),
    decoder=st.sampled_from(DECODERS),
    added=st.none() | ADDED,
)
@settings(steady, max_examples=250)
def test_lossless_is_never_claimed_wrongly(
    model: dict, normalizer: dict, pre_tokenizer: dict, decoder: dict, added: tuple | None
) -> None:
    document = document_of(model, pre_tokenizer, decoder, normalizer=normalizer)
    if added is not None:
        content, special, flags = added
        token = added_token(content, len(model["vocab"]), special=special, **flags)
        document["added_tokens"] = [token]
    try:
        tokenizer = tokenizer_from_document(document, roles={})
    except ParentError:
        return  # the library numbers some added tokens otherwise
    if tokenizer.lossless is None:
        hard = list(fuzz_texts(tokenizer, np.random.default_rng(0), 40))
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(hard)] == hard


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@steady
def test_the_usual_forms_are_lossless(text: str) -> None:
    """Byte-level BPE, and characters with bytes for the others and no mark for a blank."""
    to_text = sequence("decoders", FROM_MARKS[1:])
    for model, before, after in (
        (over_bytes(), byte_level(), byte_level()),
        (over_characters("BPE", True), None, to_text),
    ):
        tokenizer = tokenizer_from_document(document_of(model, before, after), roles={})
        assert tokenizer.lossless is None
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_mark_that_comes_back_as_a_blank_is_seen() -> None:
    """Although nothing turns blanks into marks."""
    after = sequence("decoders", FROM_MARKS)
    document = document_of(over_characters("BPE", True), None, after)
    assert "comes back as 'a b" in str(tokenizer_from_document(document, roles={}).lossless)


@pytest.mark.parametrize("content", ["<x>", "  "])
@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_added_tokens_that_take_blanks_are_seen(content: str, side: str) -> None:
    added = [added_token(content, 257, special=False, **{side: True})]
    document = document_of(over_bytes(), byte_level(), byte_level(), added_tokens=added)
    assert "comes back as" in str(tokenizer_from_document(document, roles={}).lossless)


# --- damaged files ---

LINES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a"]
BYTE_RANKS = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]


def many_ranks(change: Callable[[bytes], bytes]) -> bytes:
    """As many as GPT-2 has: the bytes and numbers."""
    more = [base64.b64encode(b"%06d" % rank) + b" %d" % rank for rank in range(256, 50_256)]
    return b"\n".join(change(line) for line in [*BYTE_RANKS, *more])


def json_form(**changes: Any) -> bytes:
    model = {**over_bytes(), **changes}
    return json.dumps(document_of(model, byte_level(), byte_level())).encode()


def unigram_form(**changes: Any) -> bytes:
    model = {**over_characters("Unigram", True), **changes}
    return json.dumps(document_of(model, None, None)).encode()


def model_file(change: Callable[[Any], object]) -> bytes:
    """A BPE .model of the bytes and three characters, changed."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    for piece in ("<unk>", "<s>", "</s>"):
        proto.pieces.add(piece=piece, type=2 if piece == "<unk>" else 3)
    for piece in BYTE_PIECES:
        proto.pieces.add(piece=piece, type=6)
    for piece in "▁ab":
        proto.pieces.add(piece=piece)
    change(proto)
    return proto.SerializeToString()


VOCAB = over_bytes()["vocab"]
AS_TABLE = json.dumps(VOCAB).encode()
WITHOUT_T = {piece: i for piece, i in VOCAB.items() if piece != "t"}
CUT_OFF = "cannot be read as JSON"
DAMAGED: dict[str, tuple[dict[str, bytes], str]] = {
    "no byte t": (
        {"tokenizer.json": json_form(vocab=WITHOUT_T, merges=[])},
        "no token for byte 0x74, which longer tokens hold",
    ),
    "no byte 0 in ranks": (
        {"a.tiktoken": many_ranks(lambda line: line.replace(b"MA== ", b"eHh4 "))},
        "no token for byte 0x30, which longer tokens hold",
    ),
    "merge of no token": ({"tokenizer.json": json_form(merges=[["t", "zz"]])}, "`zz` out of vocab"),
    "merge to no token": ({"tokenizer.json": json_form(merges=[["t", "t"]])}, "`tt` out of vocab"),
    "merges of three": (
        {"vocab.json": AS_TABLE, "merges.txt": b"a b c\n"},
        "merges.txt: a line is two tokens, not 'a b c'",
    ),
    "merges in Latin-1": (
        {"vocab.json": AS_TABLE, "merges.txt": "é t\n".encode("latin-1")},
        "merges.txt cannot be read: .*utf-8",
    ),
    "id twice": ({"tokenizer.json": json_form(vocab={**VOCAB, "Ġt": 255})}, "have one id, 255"),
    "one rank twice": (
        {"a.tiktoken": many_ranks(lambda line: line.replace(b" 300", b" 301"))},
        "'000300' and '000301' have one id, 301",
    ),
    "vocabulary of another family": ({"tokenizer.json": json_form(vocab=[["a", 0.0]])}, "no table"),
    "no vocabulary": ({"tokenizer.json": json_form(vocab=None)}, "its vocabulary is no table"),
    "Unigram table": ({"tokenizer.json": unigram_form(vocab=VOCAB)}, "its vocabulary is no list"),
    "unk_id beyond": ({"tokenizer.json": unigram_form(unk_id=999)}, "unk_id is 999; accepted"),
    "Unigram without scores": ({"tokenizer.json": unigram_form(vocab=[["<unk>"]])}, "tuple"),
    "another pre-processor": ({"tokenizer.json": b'{"model": {"type": "Mine"}}'}, "Mine"),
    "empty json": ({"tokenizer.json": b""}, CUT_OFF),
    "config cut off": (
        {"tokenizer.json": json_form(), "tokenizer_config.json": b'{"bos_token": '},
        f"tokenizer_config.json {CUT_OFF}",
    ),
    "empty model": ({"tokenizer.model": b""}, "not a SentencePiece model .no pieces"),
    "empty ranks": ({"a.tiktoken": b""}, "not a SentencePiece model|no ranks"),
    "model cut off": (
        {"tokenizer.model": model_file(lambda proto: None)[:-3]},
        "not a SentencePiece model",
    ),
    "pointer in place of a model": (
        {"tokenizer.model": b"version https://git-lfs.github.com/spec/v1\nsize 1\n"},
        "not a SentencePiece model",
    ),
    "model of words": (
        {"tokenizer.model": model_file(lambda proto: setattr(proto.trainer_spec, "model_type", 3))},
        "a SentencePiece model of words or characters; accepted: BPE, Unigram",
    ),
    "number of ranks": ({"a.tiktoken": b"\n".join(BYTE_RANKS)}, "256 tiktoken ranks: .*known for"),
    "line of ranks": (
        {"a.tiktoken": b"\n".join([*BYTE_RANKS[:9], b"dA== x"])},
        "line 10 is not `base64 rank`",
    ),
    "vocab.txt without [UNK]": (
        {"vocab.txt": "\n".join(line for line in LINES if line != "[UNK]").encode()},
        r"unk_token is '\[UNK\]'; accepted: a token of the WordPiece vocabulary",
    ),
    "empty vocab.txt": ({"vocab.txt": b""}, r"unk_token is '\[UNK\]'"),
    "vocab.txt in Latin-1": (
        {"vocab.txt": "\n".join([*LINES, "é"]).encode("latin-1")},
        "not UTF-8, one token a line",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    files, message = DAMAGED[name]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ParentError, match=message) as caught:
        load_tokenizer(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / next(iter(files))}: ")
    assert told.count(str(tmp_path)) == 1
    assert len(told.splitlines()) == 1


def test_the_files_that_are_damaged_above_are_sound_as_they_were(tmp_path: Path) -> None:
    sound = {
        "tokenizer.json": json_form(),
        "a.tiktoken": many_ranks(lambda line: line),
        "b.model": model_file(lambda proto: None),
        "vocab.txt": "\n".join(LINES).encode(),
    }
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
        tokenizer = load_tokenizer(tmp_path / name)
        assert tokenizer.decode(tokenizer.encode("a b a")) == "a b a"


def test_ids_without_a_token_are_allowed(tmp_path: Path) -> None:
    """cl100k has such holes too."""
    spread = {piece: 3 * i for piece, i in VOCAB.items()}
    (tmp_path / "tokenizer.json").write_bytes(json_form(vocab=spread))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.num_tokens == 3 * 256 + 1
    assert tokenizer.lossless is None
    assert tokenizer.encode(" ta") == [3 * 256, 3 * VOCAB["a"]]
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).backend.get_vocab() == spread


def test_a_token_that_is_there_twice_has_its_last_line(tmp_path: Path) -> None:
    """As in transformers; then no vocab.txt is written, for it could not say so."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*LINES, "a"]))
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("a b") == [8, 6]
    tokenizer.save(tmp_path)
    assert not path.exists()
