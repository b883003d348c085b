"""A SentencePiece BPE `.model` as the content of a `tokenizer.json` that gives the same ids.

SentencePiece merges the adjacent pair whose joined piece has the highest score, the leftmost of
equals. `tokenizer.json` wants one strict order of pairs; scores give it up to ties, and ties are
ordered so that the left one of two overlapping pairs comes first (`_order_ties`).
"""

import base64
from collections import defaultdict
from pathlib import Path
from typing import Any

from pocketlm.errors import ParentError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = 2
SPACE = "▁"

Merge = tuple[str, str]


def convert_model(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the `tokenizer.json` document, and which piece is `bos_token`, `eos_token`, ...

    Raises `ParentError` for what has no such form: Unigram, other files, rare options.
    """
    proto = _read_proto(path)
    _refuse_rare_options(proto, path)
    trainer = proto.trainer_spec
    numbers = {"bos": trainer.bos_id, "eos": trainer.eos_id, "pad": trainer.pad_id}
    numbers["unk"] = trainer.unk_id
    names = _names(proto)
    roles = {f"{role}_token": names[i] for role, i in numbers.items() if 0 <= i < len(names)}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(proto),
        "normalizer": _sequence("normalizers", _normalizers(proto.normalizer_spec)),
        "pre_tokenizer": None,
        "post_processor": _begin_with(roles.get("bos_token"), trainer.bos_id),
        "decoder": _sequence("decoders", _decoders(proto.normalizer_spec)),
        "model": {
            "type": "BPE",
            "unk_token": roles.get("unk_token"),
            "fuse_unk": True,
            "byte_fallback": bool(trainer.byte_fallback),
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": _merges(proto),
        },
    }
    return document, roles


def _read_proto(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError, or the file cannot be read
        raise ParentError(f"{path}: not a SentencePiece model ({error})") from None
    return proto


def _refuse_rare_options(proto: Any, path: Path) -> None:
    """Each of these would change ids silently; none occurs in common BPE models."""
    kinds = {piece.type for piece in proto.pieces}
    spec = proto.normalizer_spec
    if proto.trainer_spec.model_type != BPE:
        raise ParentError(f"{path}: a SentencePiece model that is not BPE; only BPE is accepted")
    if UNUSED in kinds or proto.trainer_spec.treat_whitespace_as_suffix:
        raise ParentError(f"{path}: unused pieces or blanks as suffixes are not accepted")
    if USER_DEFINED in kinds and spec.add_dummy_prefix:
        raise ParentError(f"{path}: user-defined pieces with a dummy prefix are not accepted")


def _names(proto: Any) -> list[str]:
    """The pieces by id. A NUL piece is never matched by SentencePiece (NUL goes to its byte), so
    it gets a name that text cannot reach, and keeps its id."""
    return [
        f"<unused_{i}>" if piece.piece == "\0" and proto.trainer_spec.byte_fallback else piece.piece
        for i, piece in enumerate(proto.pieces)
    ]


def _added_tokens(proto: Any) -> list[dict[str, Any]]:
    """Control pieces and unk (never read from text), and user-defined pieces (always whole)."""
    return [
        {
            "id": i,
            "content": piece.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            # The model matches after blanks became ▁.
            "normalized": piece.type == USER_DEFINED and SPACE in piece.piece,
            "special": piece.type != USER_DEFINED,
        }
        for i, piece in enumerate(proto.pieces)
        if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append(_replace({"Regex": rf"\A +|[ {SPACE}]+\z"}, ""))
        steps.append(_replace({"Regex": " {2,}"}, " "))
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE if spec.escape_whitespaces else " "})
    if spec.escape_whitespaces:
        steps.append(_replace({"String": " "}, SPACE))
    return steps


def _decoders(spec: Any) -> list[dict[str, Any]]:
    steps = [_replace({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(key: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"type": "Sequence", key: steps} if steps else None


def _begin_with(token: str | None, token_id: int) -> dict[str, Any] | None:
    """Models of this family start every text with bos, where there is one (Llama's convention)."""
    if token is None:
        return None
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    text_a, text_b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, text_a],
        "pair": [bos, text_a, bos, text_b],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def _merges(proto: Any) -> list[Merge]:
    """Every split of a piece into two pieces, best score first."""
    nul = "\0" if proto.trainer_spec.byte_fallback else None
    scores = {p.piece: p.score for p in proto.pieces if p.type == NORMAL and p.piece != nul}
    by_score: dict[float, list[Merge]] = defaultdict(list)
    for piece, score in scores.items():
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                by_score[score].append((left, right))
    return [
        merge for score in sorted(by_score, reverse=True) for merge in _order_ties(by_score[score])
    ]


def _order_ties(tied: list[Merge]) -> list[Merge]:
    """Order merges of equal score so that (x, y) comes before (y, z): in x y z the left one wins.

    A depth-first topological order. In a cycle (pieces that repeat themselves, such as runs of
    blanks) no order is right for every text; there the longest left half comes first, which is
    right for text read from the left.
    """
    if len(tied) == 1:
        return tied
    starting: dict[str, list[Merge]] = defaultdict(list)
    for merge in tied:
        starting[merge[0]].append(merge)
    seen: set[Merge] = set()
    finished: list[Merge] = []
    for root in sorted(tied, key=lambda merge: -len(merge[0])):
        stack = [] if root in seen else [(root, iter(starting[root[1]]))]
        seen.add(root)
        while stack:
            merge, successors = stack[-1]
            successor = next((s for s in successors if s not in seen), None)
            if successor is None:
                finished.append(merge)
                stack.pop()
            else:
                seen.add(successor)
                stack.append((successor, iter(starting[successor[1]])))
    return finished[::-1]
