"""WordPiece `vocab.txt` (one token a line, its number is its id) as a `tokenizer.json` document.

BERT's way to cut text (Devlin et al. 2019): clean, put blanks around Chinese characters, lower
case and strip accents or neither, cut at blanks and punctuation, then the longest match from the
left; a word with an unknown character becomes [UNK] as a whole.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pocketlm.corpus.document import Document, added_token, template
from pocketlm.errors import ParentError

PREFIX = "##"
_ROLES = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
}
_SPECIALS = (*_ROLES.values(), "[MASK]")
_MARKUP = re.compile(r"\[.+\]|<.+>")
_CAPITAL = re.compile("[A-Z]")


def convert_vocab_txt(path: Path, config: Mapping[str, Any]) -> tuple[Document, dict[str, str]]:
    """The document of a `vocab.txt`, and its roles; [CLS] and [SEP] count as bos and eos.

    `config` (tokenizer_config.json) says whether text is lower-cased; without it the vocabulary
    does: one without a capital ASCII letter is for lower-cased text. Raises `ParentError` for
    other files.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ParentError(f"not UTF-8, one token a line: {error}") from None
    # Not splitlines: a token may be another kind of line break.
    lines = content.removesuffix("\n").split("\n")
    vocab = {line.removesuffix("\r"): i for i, line in enumerate(lines)}
    roles = {role: token for role, token in _ROLES.items() if token in vocab}
    named = {key: config.get(key) for key in ("cls_token", "sep_token", "mask_token")}
    specials = {*_SPECIALS, *(t for t in named.values() if isinstance(t, str))} & vocab.keys()
    ends = [[(t, vocab[t])] if t in vocab else [] for t in (_ROLES["bos_token"], "[SEP]")]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(
            (added_token(token, vocab[token], special=True) for token in specials),
            key=lambda token: int(token["id"]),
        ),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", not _has_capitals(vocab)),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(*ends),
        "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return document, roles


def bert_settings(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tokenizer_config.json says beside a `vocab.txt`; None if those two could not tell how
    text is cut."""
    normalizer, words = document["normalizer"] or {}, document["pre_tokenizer"] or {}
    model = document["model"]
    marks = (model["unk_token"], model["continuing_subword_prefix"])
    if (
        (normalizer.get("type"), words.get("type")) != ("BertNormalizer", "BertPreTokenizer")
        or not normalizer["clean_text"]
        or (*marks, model["max_input_chars_per_word"]) != ("[UNK]", PREFIX, 100)
    ):
        return None
    return {
        "do_lower_case": normalizer["lowercase"],
        "strip_accents": normalizer["strip_accents"],
        "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
    }


def vocab_txt(pieces: Mapping[str, int]) -> str | None:
    """The content of `vocab.txt`; None if it could not say the ids: holes, or a line break."""
    by_id = {i: piece for piece, i in pieces.items()}
    if len(by_id) <= max(by_id) or any("\n" in piece for piece in pieces):
        return None
    return "".join(f"{by_id[i]}\n" for i in range(len(by_id)))


def _has_capitals(tokens: Iterable[str]) -> bool:
    return any(_CAPITAL.search(token) and not _MARKUP.fullmatch(token) for token in tokens)
