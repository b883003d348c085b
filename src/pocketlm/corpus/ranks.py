"""tiktoken ranks (`base64 rank` a line) as the content of a `tokenizer.json` with the same ids.

tiktoken joins the adjacent pair whose joined bytes have the lowest rank, the leftmost of equals,
so every split of a token into two tokens is a merge, and the token's rank is its place. Before
that it looks whole words up, which `ignore_merges` does too; it is set only where some token
cannot be reached by merging.

The pattern that cuts text into words, and the specials, are not in such a file. Both are known by
the number of ranks. Sure: r50k, cl100k and o200k are tiktoken's own source (tiktoken_ext, there
in an equal form that runs faster), Qwen is its published tokenization_qwen.py (which also brings
text to NFC first; here the ids are tiktoken's, so text is not changed). Llama 3: the pattern is
its published tokenizer.py; the specials are those of Llama 3.1 from memory. Llama 3 has other
names for some reserved ones, but begin, end, header and turn have the same ids in both.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import models

from pocketlm.corpus.document import (
    Document,
    added_token,
    byte_characters,
    byte_level,
    template,
    with_added,
)
from pocketlm.corpus.sentencepiece import Merge, order_ties
from pocketlm.errors import ParentError

END = "<|endoftext|>"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K_SPLIT = _SUFFIXES + _WORDS % "{1,3}"
QWEN_SPLIT = _SUFFIXES + _WORDS % ""
O200K_SPLIT = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        + _SUFFIXES
        + "?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        + _SUFFIXES
        + "?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
_RESERVED = tuple(f"<|reserved_special_token_{i}|>" for i in range(248))
_LLAMA3_SPECIALS = (
    *("<|begin_of_text|>", "<|end_of_text|>", *_RESERVED[:2]),
    *("<|finetune_right_pad_id|>", _RESERVED[2], "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *_RESERVED[3:]),
)
_QWEN_SPECIALS = (END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
_FILL_IN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What belongs to a rank file but is not in it."""

    name: str
    split: str
    """Regular expression of a word."""
    specials: Mapping[str, int]
    roles: Mapping[str, str]
    begins: bool = False
    """Whether the model's own tokenizer puts bos before a text."""


_ENDS = {"bos_token": END, "eos_token": END}
SCHEMES = {
    50_256: Scheme(name="r50k", split=GPT2_SPLIT, specials={END: 50_256}, roles=_ENDS),
    100_256: Scheme(
        name="cl100k",
        split=CL100K_SPLIT,
        specials={
            **{token: 100_257 + i for i, token in enumerate((END, *_FILL_IN))},
            "<|endofprompt|>": 100_276,
        },
        roles=_ENDS,
    ),
    128_000: Scheme(
        name="Llama 3",
        split=CL100K_SPLIT,
        specials={token: 128_000 + i for i, token in enumerate(_LLAMA3_SPECIALS)},
        roles={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        begins=True,
    ),
    151_643: Scheme(
        name="Qwen",
        split=QWEN_SPLIT,
        specials={token: 151_643 + i for i, token in enumerate(_QWEN_SPECIALS)},
        roles={"eos_token": END},
    ),
    199_998: Scheme(
        name="o200k",
        split=O200K_SPLIT,
        specials={END: 199_999, "<|endofprompt|>": 200_018},
        roles=_ENDS,
    ),
}


def holds_ranks(path: Path) -> bool:
    """Whether a file begins with a line of base64 and a number."""
    with path.open("rb") as file:
        words = file.readline(1000).split()
    if len(words) != 2 or not words[1].isdigit():
        return False
    try:
        return bool(base64.b64decode(words[0], validate=True))
    except binascii.Error:
        return False


def convert_ranks(path: Path) -> tuple[Document, dict[str, str]]:
    """The `tokenizer.json` document of a rank file, and its roles.

    Raises `ParentError` for a line that is no rank and for an unknown number of ranks.
    """
    ranks = read_ranks(path)
    scheme = SCHEMES.get(len(ranks))
    if scheme is None:
        known = ", ".join(f"{number:,} ({s.name})" for number, s in SCHEMES.items())
        raise ParentError(
            f"{len(ranks):,} tiktoken ranks: how text is cut into words is known for {known}; "
            "convert other files to tokenizer.json"
        )
    return ranks_document(ranks, scheme), dict(scheme.roles)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Bytes -> rank (= id) of each line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:  # binascii's error is one too
            raise ParentError(f"line {number} is not `base64 rank`: {line[:40]!r}") from None
    return ranks


def ranks_document(ranks: Mapping[bytes, int], scheme: Scheme) -> Document:
    """The document that gives `tiktoken.Encoding`'s ids; specials sit at their published ids."""
    characters = byte_characters()
    pieces = {token: token.decode("latin-1").translate(characters) for token in ranks}
    vocab = {pieces[token]: rank for token, rank in ranks.items()}
    merges = _merges(ranks, pieces)
    bos = scheme.roles.get("bos_token", "")
    split = {"type": "Split", "pattern": {"Regex": scheme.split}, "behavior": "Isolated"}
    document: Document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**split, "invert": False}, byte_level(use_regex=False)],
        },
        "post_processor": template([(bos, scheme.specials[bos])]) if scheme.begins else None,
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "ignore_merges": not _all_reachable(vocab, merges),
        },
    }
    specials = scheme.specials.items()
    return with_added(document, (added_token(token, i, special=True) for token, i in specials))


def _merges(ranks: Mapping[bytes, int], pieces: Mapping[bytes, str]) -> list[Merge]:
    merges: list[Merge] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [
            (pieces[token[:cut]], pieces[token[cut:]])
            for cut in range(len(token) - 1, 0, -1)
            if token[:cut] in pieces and token[cut:] in pieces
        ]
        overlap = {left for left, _ in splits}.intersection(right for _, right in splits)
        merges += order_ties(splits) if overlap else splits
    return merges


def _all_reachable(vocab: dict[str, int], merges: list[Merge]) -> bool:
    """Whether merging alone builds every token out of its bytes."""
    model = models.BPE(vocab=vocab, merges=merges)
    return all(len(model.tokenize(piece)) == 1 for piece in vocab)
