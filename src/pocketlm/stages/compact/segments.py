"""Cut text into segments that no token can cross, so that each distinct one is encoded once.

Two kinds of border:
- what the tokenizer's own expression splits off, found by RE2 (pyarrow), which is several times
  faster than the tokenizers library;
- any two characters a|b of which no piece holds the pair ab. No merge and no best path can cross
  such a place, because the piece that crosses it would hold the pair.
The pairs sit in a hashed table: a false hit keeps two characters together, which is always right.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.document import steps
from pocketlm.corpus.tokenizer import Tokenizer

BoolArray = npt.NDArray[np.bool_]
BORDER = "\0"  # stands between segments; texts that hold it are counted the slow way
_CODE_POINTS = 0x110000
_HASH_BITS = 22
# Unicode's White_Space, which RE2's \s is not.
_BLANK = (
    r"\t\n\x0b\x0c\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
)
_BLANK_IN_LINE = _BLANK.replace(r"\n", "").replace(r"\r", "")
_LAST_BLANK = r"\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SYNTAX = re.compile(r"\\p\{\w+\}|\\.|\[\^|\[|\]|\(\?i:|\(\?|[?*+}]\+|.", re.DOTALL)


@dataclass(frozen=True)
class Rewrite:
    """One pass of RE2: every match of `pattern` becomes `replacement`."""

    pattern: str
    replacement: str


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """Texts to segments, exactly as the tokenizer would cut them."""

    normalise: Callable[[str], str]
    rewrites: tuple[Rewrite, ...]
    unsafe: "UnsafePairs | None"
    """None: only the borders of `rewrites`."""

    def __call__(self, texts: Sequence[str]) -> Any:
        """A pyarrow string array of all segments in order, borders among them."""
        import pyarrow as pa
        import pyarrow.compute as pc

        joined = BORDER.join(map(self.normalise, texts))
        if self.rewrites:
            array = pa.array([joined], pa.large_string())
            for rewrite in self.rewrites:
                array = pc.replace_substring_regex(array, rewrite.pattern, rewrite.replacement)
            joined = array[0].as_py()
        utf8_B = np.frombuffer(joined.encode(), np.uint8)
        points_N = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        starts_N = np.flatnonzero((utf8_B & 0xC0) != 0x80)
        border_N = points_N == 0
        cuts = border_N[:-1] | border_N[1:]
        if self.unsafe is not None:
            cuts |= ~self.unsafe(points_N, utf8_B, starts_N)
        offsets = np.concatenate([[0], starts_N[1:][cuts], [utf8_B.size]]).astype(np.int64)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(utf8_B)]
        return pa.LargeStringArray.from_buffers(offsets.size - 1, buffers[1], buffers[2])


class UnsafePairs:
    """Which neighbouring characters some piece may hold together."""

    def __init__(self, pieces: Sequence[str | bytes], known: set[str] | None = None) -> None:
        """Pieces as text, or as bytes that may begin and end inside a character.

        `known`: the characters of a vocabulary that joins neighbouring unknown ones into one token.
        """
        self._hashed = np.zeros(1 << _HASH_BITS, np.bool_)
        self._before = np.zeros(_CODE_POINTS, np.bool_)  # unsafe before any character
        self._after = np.zeros(_CODE_POINTS, np.bool_)
        self._bytes = np.zeros(1 << 16, np.bool_)  # (last byte of a) * 256 + first byte of b
        self._unknown = None if known is None else _all_but(known)
        whole = [self._whole_part(piece) for piece in pieces]
        points = np.frombuffer(BORDER.join(whole).encode("utf-32-le"), np.uint32)
        self._hashed[_hash(points[:-1], points[1:])] = True

    def __call__(
        self,
        points_N: npt.NDArray[np.uint32],
        utf8_B: npt.NDArray[np.uint8],
        starts_N: npt.NDArray[np.int64],
    ) -> BoolArray:
        """For each character but the last: whether it may belong with the next."""
        left, right = points_N[:-1], points_N[1:]
        unsafe: BoolArray = self._hashed[_hash(left, right)]
        if self._before.any() or self._after.any() or self._bytes.any():
            unsafe |= self._before[left] | self._after[right]
            last, first = utf8_B[starts_N[1:] - 1], utf8_B[starts_N[1:]]
            unsafe |= self._bytes[last.astype(np.int32) * 256 + first]
        if self._unknown is not None:
            unsafe |= self._unknown[left] & self._unknown[right]
        return unsafe

    def _whole_part(self, piece: str | bytes) -> str:
        """The whole characters of a piece; parts of characters at its ends go into the tables."""
        if isinstance(piece, str):
            return piece
        start = 0
        while start < len(piece) and piece[start] & 0xC0 == 0x80:
            start += 1
        end = _end_of_whole(piece)
        try:
            whole = piece[start:end].decode()
        except UnicodeDecodeError:  # bytes that no text holds
            return ""
        if start and whole:
            self._after[ord(whole[0])] = True
        if end < len(piece) and whole:
            self._before[ord(whole[-1])] = True
        if 0 < start == end < len(piece):
            self._bytes[piece[start - 1] * 256 + piece[start]] = True
        return whole


def _end_of_whole(piece: bytes) -> int:
    """Where a character begins that the piece does not hold to its end; its length if none."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(piece) - back if size > back else len(piece)
        if byte < 0x80:
            break
    return len(piece)


def _all_but(known: set[str]) -> BoolArray:
    unknown = np.ones(_CODE_POINTS, np.bool_)
    unknown[[ord(character) for character in known]] = False
    return unknown


def _hash(left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    mixed = ((left * np.uint32(2654435761)) >> np.uint32(7)) ^ (right * np.uint32(40503))
    hashed: npt.NDArray[np.uint32] = mixed & np.uint32((1 << _HASH_BITS) - 1)
    return hashed


def rewrites_for(tokenizer: Tokenizer) -> tuple[Rewrite, ...] | None:
    """RE2 passes for the tokenizer's pre-tokenizer; None if it is not one that we can translate."""
    passes: list[Rewrite] = []
    for step in steps(tokenizer.document["pre_tokenizer"]):
        pattern = _pattern_of(step)
        translated = None if pattern is None else to_re2(pattern)
        if translated is None:
            return None
        passes += translated
    return tuple(passes)


def _pattern_of(step: Mapping[str, Any]) -> str | None:
    """The expression whose matches a step splits off; empty if it splits nothing."""
    kind = step["type"]
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        found = step["pattern"].get("Regex")
        return found if isinstance(found, str) else None
    if kind == "Digits" and step["individual_digits"]:
        return r"\p{N}"
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return _GPT2 if step["use_regex"] else ""
    return None


def to_re2(pattern: str) -> list[Rewrite] | None:
    """The passes that put a border around every match of `pattern`; None if we do not know how.

    RE2 cannot look ahead. `\\s+(?!\\S)|\\s+` says that the last blank of a run goes with what
    follows; a first pass parts it from the others (not a line end where those were taken before).
    """
    if not pattern:
        return []
    passes = []
    if pattern.endswith(_LAST_BLANK):
        pattern = pattern.removesuffix(_LAST_BLANK) + r"\s+"
        last = _BLANK_IN_LINE if r"[\r\n]" in pattern else _BLANK
        passes.append(Rewrite(f"([{_BLANK}]+)([{last}][^{_BLANK}\\x00])", f"\\1{BORDER}\\2"))
    translated = _translate(pattern)
    if translated is None:
        return None
    return [*passes, Rewrite(translated, f"{BORDER}\\0{BORDER}")]


def _translate(pattern: str) -> str | None:
    parts, inside = [], False
    for token in _SYNTAX.findall(pattern):
        if token in ("[", "[^"):
            inside = True
            parts.append("[^\\x00" if token == "[^" else "[")
        elif token == "]":
            inside = False
            parts.append("]")
        elif token == r"\s":
            parts.append(_BLANK if inside else f"[{_BLANK}]")
        elif len(token) == 2 and token[1] == "+" and token[0] in "?*+}" and not inside:
            parts.append(token[0])  # possessive; what follows never begins with what it took
        elif token in ("(?", ".", "^", "$", r"\b", r"\S", "&") and not (inside and token in ".$"):
            return None
        else:
            parts.append(token)
    return "".join(parts)


@cache
def unsettled_points() -> BoolArray:
    """Code points that RE2 knows nothing of; a newer Unicode may call them letters."""
    import pyarrow as pa
    import pyarrow.compute as pc

    points = [i for i in range(1, _CODE_POINTS) if not 0xD800 <= i < 0xE000]
    known = pc.match_substring_regex(
        pa.array(map(chr, points)), r"[\p{L}\p{N}\p{M}\p{P}\p{S}\p{Z}\p{Cc}\p{Cf}\p{Co}]"
    )
    table = np.zeros(_CODE_POINTS, np.bool_)
    table[points] = ~known.to_numpy(zero_copy_only=False)
    return table


def normaliser_of(tokenizer: Tokenizer) -> Callable[[str], str]:
    """The tokenizer's normaliser; plain replacements are made by `str`, much faster."""
    found = steps(tokenizer.document["normalizer"])
    if not found:
        return str
    if all(s["type"] == "Prepend" or "String" in s.get("pattern", {}) for s in found):
        return lambda text: _replaced(text, found)
    whole = tokenizer.backend.normalizer.normalize_str
    if all(s["type"] == "NFC" for s in found):
        return lambda text: text if text.isascii() else str(whole(text))
    return lambda text: str(whole(text))


def _replaced(text: str, replacements: Sequence[Mapping[str, Any]]) -> str:
    for step in replacements:
        if step["type"] == "Prepend":
            text = step["prepend"] + text if text else text
        else:
            text = text.replace(step["pattern"]["String"], step["content"])
    return text
