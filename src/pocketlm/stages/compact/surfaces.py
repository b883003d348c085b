"""The text that each token stands for, and the script it is written in.

Shapes: P parent ids (holes included).
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from pocketlm.corpus.document import Family, byte_characters
from pocketlm.corpus.tokenizer import Tokenizer

_BLANK = "\u2581"  # how SentencePiece writes a blank
# First words of Unicode names of letters and marks that belong to no script of their own.
_NO_SCRIPT = {
    "COMBINING", "VARIATION", "MODIFIER", "MATHEMATICAL", "MUSICAL", "ZNAMENNY", "DOUBLE-STRUCK",
    "SCRIPT", "VERTICAL", "BLACK-LETTER", "SUPERSCRIPT", "PLANCK", "TURNED", "VIETNAMESE",
    "FEMININE", "MICRO", "MASCULINE", "CARON", "EULER", "OHM", "KELVIN", "ANGSTROM", "ALEF", "BET",
    "GIMEL", "DALET", "INFORMATION", "ROMAN", "MASU", "KATAKANA-HIRAGANA",
}  # fmt: skip
_WIDTHS = ("HALFWIDTH", "FULLWIDTH")
_TWO_WORDS = ("OLD", "NEW", "LINEAR", "TAI")
_SAME = {"CJK": "HAN", "IDEOGRAPHIC": "HAN", "HENTAIGANA": "HIRAGANA"}


def surfaces(tokenizer: Tokenizer, pieces_P: Sequence[str | None]) -> list[str | None]:
    """Text by id: byte characters decoded, SentencePiece's blank a blank, `##` gone.

    None for specials, byte pieces, ids without a token and pieces that are not whole UTF-8.
    """
    added = tokenizer.backend.get_added_tokens_decoder()
    family: Family = tokenizer.family
    if family == "byte-bpe":
        surfaces_P = _of_bytes(pieces_P)
    elif family == "wordpiece":
        prefix = tokenizer.document["model"]["continuing_subword_prefix"]
        surfaces_P = [p if p is None or p == prefix else p.removeprefix(prefix) for p in pieces_P]
    else:
        surfaces_P = [None if p is None else p.replace(_BLANK, " ") for p in pieces_P]
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        for i, piece in enumerate(pieces_P):
            if piece in names:
                surfaces_P[i] = None
    for i, token in added.items():
        surfaces_P[i] = None if i in tokenizer.special_ids else token.content
    return surfaces_P


def script_of(text: str) -> str | None:
    """`LATIN`, `HAN`, ...: the script that all letters and marks of `text` belong to.

    None without letters, and where scripts are mixed. By Unicode's character names: digits,
    punctuation, signs and marks that serve many scripts have none.
    """
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text)) else None
    scripts = {script for script in map(_script, text) if script}
    return scripts.pop() if len(scripts) == 1 else None


def script_named(name: str) -> str:
    """A script as users write it in our spelling: `Latin` and `CJK` are `LATIN` and `HAN`."""
    upper = name.strip().upper()
    return _SAME.get(upper, upper)


@cache
def _script(character: str) -> str | None:
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in _WIDTHS:
        del words[0]
    if not words or words[0] in _NO_SCRIPT:
        return None
    return _SAME.get(words[0], " ".join(words[: 2 if words[0] in _TWO_WORDS else 1]))


def _of_bytes(pieces_P: Iterable[str | None]) -> list[str | None]:
    """Byte characters back to text."""
    table = {ord(character): byte for byte, character in byte_characters().items()}
    return [None if p is None else _decoded(p.translate(table)) for p in pieces_P]


def _decoded(text: str) -> str | None:
    """`text`, whose characters are bytes, as UTF-8."""
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):  # holds no byte character, half a character
        return None
