"""What must hold of a compacted tokenizer before anyone uses it. Every failure is ours.

Shapes: V child ids.
"""

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import StageError

IntArray = npt.NDArray[np.int64]
NUM_SAMPLES, SAMPLE_CHARACTERS = 200, 2000


def verify(
    parent: Tokenizer, child: Tokenizer, kept_V: IntArray, *, texts: list[str], closed: bool
) -> None:
    """Raises `StageError` for the first thing that does not hold.

    Ids are dense and stand for the same strings; decoding gives what it gave before; and, for a
    `closed` selection, no token died and text whose pieces are all kept has the same ids.
    """
    samples = [text[:SAMPLE_CHARACTERS] for text in texts]
    _check_ids(parent, child, kept_V)
    _check_round_trip(parent, child, samples)
    if closed:
        _check_reachable(parent, child, kept_V)
        _check_same_ids(parent, child, kept_V, samples)


def _check_ids(parent: Tokenizer, child: Tokenizer, kept_V: IntArray) -> None:
    before = {i: piece for piece, i in parent.backend.get_vocab(with_added_tokens=True).items()}
    after = {i: piece for piece, i in child.backend.get_vocab(with_added_tokens=True).items()}
    for new, old in enumerate(kept_V.tolist()):
        if after.get(new) != before[old]:
            raise StageError(f"compact: id {new} is {after.get(new)!r}, expected {before[old]!r}")
    if len(after) != kept_V.size:
        raise StageError(f"compact: {len(after)} tokens came out, {kept_V.size} were chosen")


def _check_round_trip(parent: Tokenizer, child: Tokenizer, samples: list[str]) -> None:
    before = parent.encode_batch(samples)
    after = child.encode_batch(samples)
    for text, old, new in zip(samples, before, after, strict=True):
        if child.decode(new) != parent.decode(old):
            raise StageError(f"compact: {text[:40]!r}... does not decode as it did before")


def _check_reachable(parent: Tokenizer, child: Tokenizer, kept_V: IntArray) -> None:
    """A token is reachable iff encoding its own string gives exactly itself."""
    pieces = child.backend.get_vocab(with_added_tokens=False)
    for piece, new in pieces.items():
        if _pieces(child, piece) != [new] and _pieces(parent, piece) == [int(kept_V[new])]:
            raise StageError(f"compact: token {piece!r} can no longer be reached")


def _check_same_ids(
    parent: Tokenizer, child: Tokenizer, kept_V: IntArray, samples: list[str]
) -> None:
    snippets = sorted({word for text in samples for word in (*text.split(), *text.split("\n"))})
    kept = set(kept_V.tolist())
    pairs = zip(parent.encode_batch(snippets), child.encode_batch(snippets), strict=True)
    for snippet, (old, new) in zip(snippets, pairs, strict=True):
        if kept.issuperset(old) and kept_V[new].tolist() != old:
            raise StageError(f"compact: {snippet[:40]!r} has other ids although all are kept")


def _pieces(tokenizer: Tokenizer, piece: str) -> list[int]:
    return [token.id for token in tokenizer.backend.model.tokenize(piece)]
