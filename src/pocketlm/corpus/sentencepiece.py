"""A SentencePiece `.model`, BPE or Unigram, as a `tokenizer.json` document with the same ids.

BPE: SentencePiece merges the adjacent pair whose joined piece has the highest score, the leftmost
of equals. `tokenizer.json` wants one strict order of pairs; scores give it up to ties, and ties
are ordered so that the left one of two overlapping pairs comes first (`order_ties`).

Unigram: both take the segmentation with the highest sum of scores (Kudo 2018, arXiv 1804.10959,
section 3.2). SentencePiece adds 32-bit floats along a whole text, the library 64-bit ones in each
word, so segmentations whose sums agree to about 1e-4 can fall either way.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.corpus.document import (
    Document,
    Special,
    added_token,
    replace_step,
    sequence,
    template,
)
from pocketlm.errors import ParentError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
SPACE = "▁"
UNREACHABLE = "<unused_nul>"
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

Merge = tuple[str, str]


def convert_model(path: Path, config: Mapping[str, Any]) -> tuple[Document, dict[str, str]]:
    """Return the `tokenizer.json` document, and which piece is `bos_token`, `eos_token`, ...

    `config` (tokenizer_config.json) may say `add_bos_token`, `add_eos_token`. Raises
    `ParentError` for what has no such form: other files, other models, rare options.
    """
    proto = read_proto(path.read_bytes())
    _refuse_rare_options(proto)
    trainer = proto.trainer_spec
    names = piece_names(proto)
    numbers = {"bos": trainer.bos_id, "eos": trainer.eos_id, "pad": trainer.pad_id}
    numbers["unk"] = trainer.unk_id
    roles = {f"{role}_token": names[i] for role, i in numbers.items() if 0 <= i < len(names)}
    unigram = trainer.model_type == UNIGRAM
    before, after = _frame(proto, names, config)
    if before and after:
        roles = {"bos_token": before[0][0], "eos_token": after[0][0], **roles}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(proto),
        "normalizer": sequence("normalizers", _normalizers(proto.normalizer_spec)),
        "pre_tokenizer": sequence("pretokenizers", _word_cuts(proto)) if unigram else None,
        "post_processor": template(before, after),
        "decoder": sequence("decoders", _decoders(proto.normalizer_spec)),
        "model": _unigram(proto, names) if unigram else _bpe(proto, names),
    }
    return document, roles


def read_proto(content: bytes) -> Any:
    """A parsed ModelProto; raises `ParentError` if it is none."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's own DecodeError
        raise ParentError(f"not a SentencePiece model ({error})") from None
    if not proto.pieces:  # an empty file parses
        raise ParentError("not a SentencePiece model (no pieces in it)")
    return proto


def cut_pieces(content: bytes, kept: Sequence[int]) -> bytes | None:
    """A serialized ModelProto with the pieces `kept` only, in that order, and its ids right.

    Scores stay; the roles' ids are renumbered, -1 where the piece is gone. The trainer's examples
    for its self-test are dropped: they hold for the old vocabulary. None where a character of a
    piece is gone and SentencePiece would not read text as a `tokenizer.json`: its BPE joins
    characters that are no pieces, its Unigram ignores user-defined scores in that of unknowns.
    """
    proto = read_proto(content)
    pieces = [proto.pieces[i] for i in kept]
    normal = {piece.piece for piece in pieces if piece.type == NORMAL}
    differ = proto.trainer_spec.model_type == BPE or any(p.type == USER_DEFINED for p in pieces)
    if differ and not all(normal.issuperset(piece) for piece in normal):
        return None
    new_ids = {old: new for new, old in enumerate(kept)}
    cut = type(proto)()
    cut.CopyFrom(proto)
    del cut.pieces[:]
    cut.pieces.extend(pieces)
    cut.DiscardUnknownFields()  # self_test_data is one to the Python package
    trainer = cut.trainer_spec
    trainer.vocab_size = len(pieces)
    for role in ("unk_id", "bos_id", "eos_id", "pad_id"):
        setattr(trainer, role, new_ids.get(getattr(trainer, role), -1))
    return bytes(cut.SerializeToString())


def _refuse_rare_options(proto: Any) -> None:
    """Each of these would change ids silently."""
    kinds = {piece.type for piece in proto.pieces}
    model_type, spec = proto.trainer_spec.model_type, proto.normalizer_spec
    if model_type not in (UNIGRAM, BPE):
        raise ParentError("a SentencePiece model of words or characters; accepted: BPE, Unigram")
    if UNUSED in kinds or proto.trainer_spec.treat_whitespace_as_suffix:
        raise ParentError("unused pieces or blanks as suffixes are not accepted")
    if model_type == BPE and USER_DEFINED in kinds and spec.add_dummy_prefix:
        raise ParentError("BPE: user-defined pieces with a dummy prefix are not accepted")


def piece_names(proto: Any) -> list[str]:
    """The pieces by id. A NUL piece is never matched by SentencePiece (NUL goes to its byte), so
    it gets a name that text cannot reach, and keeps its id."""
    return [
        UNREACHABLE if piece.piece == "\0" and proto.trainer_spec.byte_fallback else piece.piece
        for piece in proto.pieces
    ]


def _added_tokens(proto: Any) -> list[Document]:
    """Control pieces and unk (never read from text), and user-defined pieces (always whole).

    In Unigram user-defined pieces are pieces with a good score, as in SentencePiece.
    """
    unigram = proto.trainer_spec.model_type == UNIGRAM
    kinds = (UNKNOWN, CONTROL) if unigram else (UNKNOWN, CONTROL, USER_DEFINED)
    return [
        # The model matches after blanks became ▁.
        added_token(
            piece.piece,
            i,
            special=piece.type != USER_DEFINED,
            normalized=piece.type == USER_DEFINED and SPACE in piece.piece,
        )
        for i, piece in enumerate(proto.pieces)
        if piece.type in kinds
    ]


def _normalizers(spec: Any) -> list[Document]:
    steps: list[Document] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append(replace_step({"Regex": rf"\A +|[ {SPACE}]+\z"}, ""))
        steps.append(replace_step({"Regex": " {2,}"}, " "))
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE if spec.escape_whitespaces else " "})
    if spec.escape_whitespaces:
        steps.append(replace_step({"String": " "}, SPACE))
    return steps


def _decoders(spec: Any) -> list[Document]:
    steps = [replace_step({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _frame(
    proto: Any, names: Sequence[str], config: Mapping[str, Any]
) -> tuple[list[Special], list[Special]]:
    """What models of this kind put around a text; the file itself does not say it.

    BPE: bos (Llama's convention). Unigram: [CLS] and [SEP] where it has them (ALBERT), else bos,
    and eos where there is no bos (T5).
    """
    trainer = proto.trainer_spec
    ids = {name: names.index(name) for name in ("[CLS]", "[SEP]") if name in names[:100]}
    if len(ids) == 2:
        return [("[CLS]", ids["[CLS]"])], [("[SEP]", ids["[SEP]"])]
    bos, eos = ([(names[i], i)] if i >= 0 else [] for i in (trainer.bos_id, trainer.eos_id))
    closes = trainer.model_type == UNIGRAM and not bos
    return (
        bos if config.get("add_bos_token", True) else [],
        eos if config.get("add_eos_token", closes) else [],
    )


def _unigram(proto: Any, names: Sequence[str]) -> Document:
    """Pieces with scores. A user-defined piece has the score that SentencePiece's encoder gives
    it (unigram_model.cc, EncodeOptimized): its bytes times the best score, less 0.1."""
    best = max(piece.score for piece in proto.pieces if piece.type == NORMAL)
    scores = (
        len(piece.piece.encode("utf-8")) * best - 0.1
        if piece.type == USER_DEFINED
        else float(piece.score)
        for piece in proto.pieces
    )
    return {
        "type": "Unigram",
        "unk_id": proto.trainer_spec.unk_id,
        "byte_fallback": bool(proto.trainer_spec.byte_fallback),
        "vocab": [[name, score] for name, score in zip(names, scores, strict=True)],
    }


def _word_cuts(proto: Any) -> list[Document]:
    """Where a Unigram text may be cut before the search, with no change to what it finds.

    Before every ▁, if no piece goes on over one: the best path is then the best of each word.
    And inside what reads like a control or byte piece: the library would take it for one.
    """
    readable = [p.piece for p in proto.pieces if p.type in (NORMAL, USER_DEFINED)]
    hidden = {
        "<0x[0-9A-F]{2}>" if _BYTE_PIECE.fullmatch(p.piece) else re.escape(p.piece): p.piece
        for p in proto.pieces
        if p.type in (UNKNOWN, CONTROL, BYTE) and len(p.piece) > 1
    }
    cuts: list[Document] = []
    if hidden:
        patterns = (_inside(name, pattern, readable) for pattern, name in hidden.items())
        regex = {"Regex": "|".join(patterns)}
        step = {"type": "Split", "pattern": regex, "behavior": "MergedWithPrevious"}
        cuts.append({**step, "invert": False})
    if SPACE in readable and not any(SPACE in piece[1:] for piece in readable):
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never"}
        cuts.append({**metaspace, "split": True})
    return cuts


def _inside(name: str, pattern: str, readable: Sequence[str]) -> str:
    """A pattern that matches the beginning of `name`, up to where no readable piece goes over."""
    known = "\n".join(readable)
    places = range(1, 2 if "{" in pattern else len(name))
    cut = next((at for at in places if name[at - 1 : at + 1] not in known), 1)
    head = re.escape(name[:cut])
    return f"{head}(?={pattern.removeprefix(head)})"


def _bpe(proto: Any, names: Sequence[str]) -> Document:
    unk_id = proto.trainer_spec.unk_id
    return {
        "type": "BPE",
        "unk_token": names[unk_id] if 0 <= unk_id < len(names) else None,
        "fuse_unk": True,
        "byte_fallback": bool(proto.trainer_spec.byte_fallback),
        "vocab": {name: i for i, name in enumerate(names)},
        "merges": _merges(proto),
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
        merge for score in sorted(by_score, reverse=True) for merge in order_ties(by_score[score])
    ]


def order_ties(tied: list[Merge]) -> list[Merge]:
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
