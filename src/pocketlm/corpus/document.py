"""Parts of a `tokenizer.json` document: read its family, write what converters share."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from pocketlm.errors import ParentError

Family = Literal["byte-bpe", "sentencepiece-bpe", "unigram", "wordpiece"]
Document = dict[str, Any]
Special = tuple[str, int]  # a token and its id

ACCEPTED = (
    "BPE, Unigram or WordPiece as tokenizer.json, SentencePiece .model, tiktoken ranks, "
    "vocab.json + merges.txt or vocab.txt"
)
_FAMILIES: dict[str, Family] = {"Unigram": "unigram", "WordPiece": "wordpiece"}


def family_of(document: Mapping[str, Any]) -> Family:
    """Which of the four a document is; raises `ParentError` for any other."""
    kind = model_type(document.get("model") or {})
    if kind == "BPE":
        places = (document.get("normalizer"), document.get("pre_tokenizer"))
        byte_level = any(s["type"] == "ByteLevel" for place in places for s in steps(place))
        return "byte-bpe" if byte_level else "sentencepiece-bpe"
    if kind not in _FAMILIES:
        raise ParentError(f"a {kind} tokenizer; accepted: {ACCEPTED}")
    return _FAMILIES[kind]


def model_type(model: Mapping[str, Any]) -> str:
    """`BPE`, `Unigram`, ...; files of old library versions do not say it."""
    if model.get("type"):
        return str(model["type"])
    marks = {"merges": "BPE", "unk_id": "Unigram", "max_input_chars_per_word": "WordPiece"}
    return next((kind for key, kind in marks.items() if key in model), "unknown")


def steps(place: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The single steps of a normaliser, pre-tokenizer or decoder, sequences laid flat."""
    if not place:
        return []
    for key in ("normalizers", "pretokenizers", "decoders", "processors"):
        if key in place:
            return [step for inner in place[key] for step in steps(inner)]
    return [place]


def vocab_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Piece -> id of a model, added tokens that are not in it left out."""
    vocab: dict[str, int] | list[tuple[str, float]] = model["vocab"]
    if isinstance(vocab, dict):
        return vocab
    return {piece: i for i, (piece, _) in enumerate(vocab)}


@cache
def byte_characters() -> dict[int, str]:
    """Byte -> the printable character that stands for it (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable}
    return {**table, **{byte: chr(256 + place) for place, byte in enumerate(others)}}


def sequence(key: str, parts: Sequence[Document]) -> Document | None:
    """Several steps as one, or none."""
    return {"type": "Sequence", key: list(parts)} if parts else None


def replace_step(pattern: Mapping[str, str], content: str) -> Document:
    """A `Replace` step; `pattern` is `{"String": ...}` or `{"Regex": ...}`."""
    return {"type": "Replace", "pattern": dict(pattern), "content": content}


def byte_level(*, use_regex: bool = True, add_prefix_space: bool = False) -> Document:
    """The ByteLevel step, as pre-tokenizer or decoder."""
    step = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
    return {**step, "use_regex": use_regex}


def added_token(content: str, token_id: int, *, special: bool, **flags: bool) -> Document:
    """An entry of `added_tokens`; `flags` are `lstrip`, `rstrip`, `normalized`, `single_word`."""
    unset = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **unset, **flags, "special": special}


def with_added(document: Document, tokens: Iterable[Mapping[str, Any]]) -> Document:
    """`document` with more added tokens at their ids; one of an id that is there replaces it.

    The library numbers added tokens on from the vocabulary's size, whatever the file says. Where
    that gives another id, a token sits in the vocabulary too, by name. Raises `ParentError` for
    an id that a piece of the vocabulary has.
    """
    model = document["model"]
    vocab = vocab_of(model)
    pieces = {i: piece for piece, i in vocab.items()}
    by_id = {token["id"]: dict(token) for token in document["added_tokens"]}
    for token in tokens:
        if pieces.get(token["id"], token["content"]) != token["content"]:
            there = pieces[token["id"]]
            raise ParentError(f"added token {token['content']!r} has the id of {there!r}")
        by_id[token["id"]] = dict(token)
    ordered = [by_id[i] for i in sorted(by_id)]
    outside = {t["content"]: t["id"] for t in ordered if t["content"] not in vocab}
    natural = range(len(vocab), len(vocab) + len(outside))
    if isinstance(model["vocab"], dict) and [*outside.values()] != [*natural]:
        model = {**model, "vocab": {**vocab, **outside}}
    return {**document, "model": model, "added_tokens": ordered}


def template(before: Sequence[Special], after: Sequence[Special] = ()) -> Document | None:
    """A post-processor that puts `before` and `after` around each text; None if there is none.

    Of a pair both texts get them, but a frame with two ends (BERT's) opens only once.
    """
    if not before and not after:
        return None
    both = bool(before and after)
    first, last = _pieces(before, 0), _pieces(after, 0)
    text_a = {"Sequence": {"id": "A", "type_id": 0}}
    text_b = {"Sequence": {"id": "B", "type_id": int(both)}}
    return {
        "type": "TemplateProcessing",
        "single": [*first, text_a, *last],
        "pair": [
            *(*first, text_a, *last),
            *([] if both else first),
            *(text_b, *_pieces(after, int(both))),
        ],
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (*before, *after)
        },
    }


def _pieces(specials: Iterable[Special], type_id: int) -> list[Document]:
    return [{"SpecialToken": {"id": token, "type_id": type_id}} for token, _ in specials]
