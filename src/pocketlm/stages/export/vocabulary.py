"""A tokenizer as llama.cpp wants it: pieces, types, and the rule that joins them.

llama.cpp rewrites tokenizers by hand, two of them for byte-pair encodings:
  byte-level   `gpt2`: merges as they are, and a pre-tokenizer known by name. Converters guess the
               name from a hash of ids, which no compacted vocabulary has; here the split
               expressions themselves decide, and an unknown one is refused.
  sentence     `llama`: no merges, a score per piece, and whatever pair spells a piece is joined,
               best score first. The scores are those of the SentencePiece model that came
               along; without one, minus the rank of the last merge that builds the piece.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pocketlm.errors import UserError

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer


class PieceType(IntEnum):
    """llama.cpp's `llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")

PRE_TOKENIZERS: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((GPT2_SPLIT,), False): "gpt-2",
    ((LLAMA3_SPLIT,), True): "llama-bpe",
    ((LLAMA3_SPLIT,), False): "dbrx",  # llama.cpp: same split, but merges decide
    ((QWEN2_SPLIT,), False): "qwen2",
    ((r"\p{N}", GPT2_SPLIT), False): "smollm",
}
"""Split expressions in order, and whether a whole word beats its merges -> llama.cpp's name."""

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What goes into the file's `tokenizer.ggml.*` keys; every list is indexed by token id."""

    model: str
    pieces: tuple[str, ...]
    types: tuple[PieceType, ...]
    pre: str = "default"
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    add_space_prefix: bool = False

    @cached_property
    def has_bytes(self) -> bool:
        """Whether any text can be written; without, llama.cpp fails on an unknown character."""
        return self.model == "gpt2" or PieceType.BYTE in self.types

    def as_written(self, text: str) -> str:
        """The text in the form llama.cpp cuts it into pieces; it has no other normaliser."""
        if self.model == "gpt2":
            return text
        prefix = _SPACE if self.add_space_prefix and text else ""
        return prefix + text.replace(" ", _SPACE)


def vocabulary_of(tokenizer: "Tokenizer", vocab_size: int) -> Vocabulary:
    """Translate `tokenizer`; rows of the embedding beyond its ids become unused pieces.

    Raises `UserError`, one line, for a tokenizer llama.cpp has no equal of.
    """
    table = json.loads(tokenizer.backend.to_str())
    model = table["model"]
    if model["type"] != "BPE":
        raise _refusal(f"its model is {model['type']}, and gguf files are written for BPE only")
    pieces, types = _pieces(table, vocab_size)
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    steps = _steps(table["pre_tokenizer"], "pretokenizers")
    if any(step["type"] == "ByteLevel" for step in steps):
        return Vocabulary(
            model="gpt2",
            pieces=pieces,
            types=types,
            merges=tuple(" ".join(merge) for merge in merges),
            pre=_pre_tokenizer(table, steps),
        )
    return Vocabulary(
        model="llama",
        pieces=pieces,
        types=types,
        scores=_own_scores(tokenizer, vocab_size) or _scores(pieces, types, merges),
        add_space_prefix=_adds_space(table, steps),
    )


def normalised(tokenizer: "Tokenizer", text: str) -> str:
    """What the tokenizer itself cuts into pieces, in the form of `Vocabulary.as_written`."""
    backend = tokenizer.backend
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if "Metaspace" in repr(backend.pre_tokenizer):
        text = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return text


def _pieces(
    table: Mapping[str, Any], vocab_size: int
) -> tuple[tuple[str, ...], tuple[PieceType, ...]]:
    """Strings and types by id; llama.cpp wants a piece for every row, all of them different."""
    pieces = [f"[UNUSED_{i}]" for i in range(vocab_size)]
    types = [PieceType.UNUSED] * vocab_size
    for piece, i in table["model"]["vocab"].items():
        pieces[i] = piece
        types[i] = PieceType.BYTE if _BYTE_PIECE.fullmatch(piece) else PieceType.NORMAL
    for token in table["added_tokens"]:
        pieces[token["id"]] = token["content"]
        types[token["id"]] = PieceType.CONTROL if token["special"] else PieceType.USER_DEFINED
    unknown = table["model"].get("unk_token")
    if unknown in pieces:
        types[pieces.index(unknown)] = PieceType.UNKNOWN
    return tuple(pieces), tuple(types)


def _steps(part: Mapping[str, Any] | None, key: str) -> Sequence[Mapping[str, Any]]:
    """A normaliser or pre-tokenizer as a flat list of steps."""
    if part is None:
        return []
    return part[key] if part["type"] == "Sequence" else [part]


def _pre_tokenizer(table: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """llama.cpp's name for the split; the tables must agree in everything that changes ids."""
    for step in _steps(table["normalizer"], "normalizers"):
        if step["type"] != "NFC":  # composes characters; texts that are not composed are reported
            raise _refusal(f"its normaliser {step['type']} has no equal in llama.cpp")
    splits = []
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            splits.append(step["pattern"].get("Regex", ""))
        elif step["type"] == "Digits" and step["individual_digits"]:
            splits.append(r"\p{N}")
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            splits += [GPT2_SPLIT] if step["use_regex"] else []
        else:
            raise _refusal(f"its pre-tokenizer step {step['type']} has no equal in llama.cpp")
    key = (tuple(splits), bool(table["model"].get("ignore_merges")))
    if key not in PRE_TOKENIZERS:
        raise _refusal(f"llama.cpp has no name for its split {' then '.join(splits)!r}")
    return PRE_TOKENIZERS[key]


def _adds_space(table: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a text gets a blank in front. Blanks must become U+2581, one for one."""
    space_to_mark, adds = False, False
    for step in _steps(table["normalizer"], "normalizers"):
        if step["type"] == "Prepend":
            adds = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            space_to_mark = step["content"] == _SPACE
    for step in steps:
        if step["type"] != "Metaspace" or step["split"]:
            raise _refusal(f"its pre-tokenizer step {step['type']} has no equal in llama.cpp")
        space_to_mark, adds = True, step["prepend_scheme"] != "never"
    if not space_to_mark:
        raise _refusal("it is neither byte-level nor of the SentencePiece kind")
    return adds


def _own_scores(tokenizer: "Tokenizer", vocab_size: int) -> tuple[float, ...]:
    """What the tokenizer's SentencePiece model says, with its ties; nothing if there is none."""
    if tokenizer.sentencepiece is None:
        return ()
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.sentencepiece)
    own = [float(piece.score) for piece in proto.pieces][:vocab_size]
    return (*own, *[min(own)] * (vocab_size - len(own)))


def _scores(
    pieces: Sequence[str], types: Sequence[PieceType], merges: Sequence[tuple[str, ...]]
) -> tuple[float, ...]:
    """Minus the rank of each piece's own last merge; what no merge builds comes after all of them.

    SentencePiece's order is by piece, a merge list's by pair: the two agree where all pairs of a
    piece are neighbours in rank, which `verify` checks on text.
    """
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    pairs: dict[str, list[int]] = {}
    for (left, right), rank in ranks.items():
        pairs.setdefault(left + right, []).append(rank)
    last = -float(len(merges))
    scores = []
    for piece, kind in zip(pieces, types, strict=True):
        own = pairs.get(piece, [])
        if kind is not PieceType.NORMAL:
            scores.append(0.0)
        elif len(own) < 2:
            scores.append(-float(own[0]) if own else last)
        else:
            completed_by = _last_rank(piece, ranks)
            scores.append(last if completed_by is None else -float(completed_by))
    return tuple(scores)


def _last_rank(piece: str, ranks: Mapping[tuple[str, ...], int]) -> int | None:
    """Encode the piece's own string; the rank of the merge that completes it, if one does."""
    parts, rank = list(piece), len(ranks)
    while len(parts) > 1:
        rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts)))
        if rank == len(ranks):
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return rank


def _refusal(reason: str) -> UserError:
    return UserError(f"[export] formats: this tokenizer cannot go into a gguf file: {reason}")
