"""The bytes that each token of a vocabulary stands for, and which tokens begin with given bytes."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import takewhile

from pocketlm.corpus.document import byte_characters
from pocketlm.corpus.lossless import BYTE_PIECES, SPACE
from pocketlm.corpus.tokenizer import Tokenizer


class TokenBytes:
    """Bytes by id; a token that stands for no known bytes (specials, unknown) has none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Reads the vocabulary once."""
        self._by_id = _bytes_by_id(tokenizer)
        self._sorted = sorted((text, i) for i, text in self._by_id.items())
        self._starting: dict[bytes, list[int]] = {}

    def of(self, ids: Sequence[int]) -> bytes | None:
        """Bytes of `ids` in a row; None where one of them has none."""
        parts = [self._by_id.get(i) for i in ids]
        return None if None in parts else b"".join(part for part in parts if part is not None)

    def starting_with(self, head: bytes) -> list[int]:
        """Ids of all tokens whose bytes begin with `head`."""
        if head not in self._starting:
            begin = bisect_left(self._sorted, (head, -1))
            there = takewhile(lambda pair: pair[0].startswith(head), self._sorted[begin:])
            self._starting[head] = [i for _, i in there]
        return self._starting[head]


def _bytes_by_id(tokenizer: Tokenizer) -> dict[int, bytes]:
    """By family: byte characters back to bytes, `▁` a blank, `##` gone."""
    added = tokenizer.backend.get_added_tokens_decoder()
    unwritten = {*tokenizer.special_ids, tokenizer.unk_id}
    pieces = tokenizer.backend.get_vocab(with_added_tokens=True)
    model = tokenizer.document["model"]
    found: dict[int, bytes] = {}
    for piece, i in pieces.items():
        if i in unwritten:
            continue
        if i in added:
            found[i] = added[i].content.encode()
        elif tokenizer.family == "byte-bpe":
            found[i] = b"".join(_BYTE_OF.get(c) or c.encode() for c in piece)
        elif tokenizer.family == "wordpiece":
            inner = piece.removeprefix(model["continuing_subword_prefix"])
            found[i] = (inner if inner != piece else f" {piece}").encode()
        else:
            found[i] = _FALLBACK.get(piece) or piece.replace(SPACE, " ").encode()
    return found


_BYTE_OF = {character: bytes([byte]) for byte, character in byte_characters().items()}
_FALLBACK = {piece: bytes([byte]) for byte, piece in enumerate(BYTE_PIECES)}
