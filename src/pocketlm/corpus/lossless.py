"""What a tokenizer loses: damaged files are refused, and others say what they lose.

Text is lost in four places: the normaliser changes it, the pre-tokenizer drops blanks, the
vocabulary has no token for a character or byte, the decoder puts the blanks back wrongly. The
first three are read off the file; the last is tried out on strings that are hard to bring back.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from pocketlm.corpus.document import byte_characters, family_of, steps, vocab_of
from pocketlm.errors import ParentError

SPACE = "▁"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Bytes that no UTF-8 text holds; GPT-NeoX and ModernBERT have no token for them.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
_KEEPING_TEXT = ("ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "FixedLength")
_PROBES = (
    *("", " ", "  ", "a", " a", "a ", "  a  b  ", "\n", "\n\n a", "a\r\nb\r", "\t\ta\t", " " * 70),
    "".join(map(chr, range(128))),
    "".join(map(chr, range(128, 384))),
    *("\ufeffa", "a\u00ad\u200b\u200db", "\u3000a\u2003b\u00a0", "\u2028\u2029\x85\x0b\x0c"),
    *("e\u0301 \u1e69 s\u0323\u0307", "\ufb01 \u2460 \uff21\uff0c \u212b", "\u1100\u1161\u11a8"),
    "\U0001f469\u200d\U0001f52c \U0001f1e8\U0001f1f3 \ufe0f",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0e44\u0e17\u0e22 \ud55c\uad6d",
    "\u9f98\u9750\u9f49\u3001\u3002 \U00020000\U0002a6df\ue000\U0010ffff\U000f0000",
    "</s><s><unk><0x0A><|endoftext|>[MASK] [UNK]##a don't 'S 's 1234567",
    f"a{SPACE}b {SPACE}{SPACE}",
)


class _Coder(Protocol):
    @property
    def document(self) -> dict[str, Any]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def reason_of_loss(tokenizer: _Coder) -> str | None:
    """None if decode(encode(x)) == x for any text, else the first reason why not."""
    return next(chain(_by_structure(tokenizer.document), _by_trial(tokenizer)), None)


def missing_bytes(document: Mapping[str, Any]) -> list[int]:
    """Bytes of UTF-8 text that a byte-level vocabulary has no token for."""
    vocab = document["model"]["vocab"]
    characters = byte_characters()
    return [b for b, character in characters.items() if character not in vocab and b not in _NEVER]


def refuse_damage(document: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """Raise `ParentError` where the library would load a file and lose text silently or late."""
    family = family_of(document)
    vocab = document["model"].get("vocab")
    form, said = (list, "list") if family == "unigram" else (dict, "table")
    if not vocab or not isinstance(vocab, form):
        raise ParentError(f"its vocabulary is no {said}, or empty; accepted: a {family} vocabulary")
    if isinstance(vocab, dict):
        _refuse_shared_ids(vocab)
    _DAMAGE[family](document, roles)


def _refuse_shared_ids(vocab: Mapping[str, int]) -> None:
    """The library takes two tokens of one id, and gives the text of one of them for both."""
    pieces = {i: piece for piece, i in vocab.items()}
    if len(pieces) == len(vocab):
        return
    piece, i = next((piece, i) for piece, i in vocab.items() if pieces[i] != piece)
    raise ParentError(f"{piece!r} and {pieces[i]!r} have one id, {i}; accepted: an id for each")


def _lost_bytes(document: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """Some files never had a byte (tencent/Hy3 has no 0x0D); where longer tokens hold a byte
    that is no token itself, it was taken out."""
    vocab = document["model"]["vocab"]
    missing = sorted(missing_bytes(document))
    if not missing:
        return
    added = {token["content"] for token in document.get("added_tokens") or ()}
    used = {character for piece in vocab if piece not in added for character in piece}
    lost = [byte for byte in missing if byte_characters()[byte] in used]
    if lost:
        raise ParentError(
            f"no token for {_bytes(lost)}, which longer tokens hold: text would be lost; accepted: "
            "a byte-level vocabulary with all bytes that it uses"
        )


def _no_unknown_id(document: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    model = document["model"]
    unk_id, vocab = model.get("unk_id"), model["vocab"]
    if unk_id is None or not 0 <= unk_id < len(vocab):
        raise ParentError(f"unk_id is {unk_id}; accepted: an id of the {len(vocab)} Unigram pieces")
    named = roles.get("unk_token", vocab[unk_id][0])
    if vocab[unk_id][0] != named:
        raise ParentError(f"unk_id {unk_id} is {vocab[unk_id][0]!r}, but unk_token is {named!r}")


def _no_unknown_token(document: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    model = document["model"]
    unk = model.get("unk_token")
    if unk not in model["vocab"]:
        raise ParentError(f"unk_token is {unk!r}; accepted: a token of the WordPiece vocabulary")


def _none(document: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    """The library itself refuses merges of missing tokens."""


_DAMAGE = {
    "byte-bpe": _lost_bytes,
    "sentencepiece-bpe": _none,
    "unigram": _no_unknown_id,
    "wordpiece": _no_unknown_token,
}


def _by_structure(document: Mapping[str, Any]) -> Iterator[str]:
    family = family_of(document)
    if family == "wordpiece":
        yield "WordPiece drops blanks, and words with unknown characters"
    for step in steps(document["normalizer"]):
        if step["type"] not in ("Prepend", "ByteLevel") and not _blank_to_mark(step):
            yield f"its normaliser {step['type']} changes text"
    for step in steps(document["pre_tokenizer"]):
        if step["type"] not in _KEEPING_TEXT and step.get("behavior", "Removed") == "Removed":
            yield f"its pre-tokenizer {step['type']} drops text"
    if family == "byte-bpe":
        if missing := missing_bytes(document):
            yield f"it has no token for {_bytes(missing)}"
    else:
        vocab = vocab_of(document["model"])
        if not document["model"].get("byte_fallback") or not vocab.keys() >= {*BYTE_PIECES}:
            yield "characters without a token are unknown to it"
        if SPACE in str((document["normalizer"], document["pre_tokenizer"])):
            yield f"it reads {SPACE} as a blank"


def _blank_to_mark(step: Mapping[str, Any]) -> bool:
    return bool(step["type"] == "Replace" and step["pattern"] == {"String": " "})


def _by_trial(tokenizer: _Coder) -> Iterator[str]:
    added = (token["content"] for token in tokenizer.document["added_tokens"])
    # Some added tokens take the blanks beside them, and some are blanks.
    texts = [*_PROBES, *(f"a  {content}\n\t {content} b{content}c" for content in added)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if (back := tokenizer.decode(ids)) != text:
            yield f"{text[:20]!r} comes back as {back[:20]!r}"


def _bytes(values: Sequence[int]) -> str:
    names = ", ".join(f"0x{value:02X}" for value in values[:8])
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    return f"byte{'s' if len(values) > 1 else ''} {names}{more}"
