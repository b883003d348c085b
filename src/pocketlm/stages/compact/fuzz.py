"""Random texts that are hard on tokenizers: any number of them, the same for a seed."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pocketlm.corpus.tokenizer import Tokenizer

_BLANKS = (" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u2028", "\x00", "\x0b", "\u200d")
_PLANES = ((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x400, 0x530), (0x590, 0x700),
           (0x900, 0xE80), (0x1F00, 0x2100), (0x2000, 0x2C00), (0x3040, 0x3100), (0x4E00, 0xA000),
           (0xAC00, 0xD7A4), (0xF900, 0x10000), (0x1F300, 0x1FB00), (0x20000, 0x2A6E0),
           (0x1, 0x110000))  # fmt: skip
_PIECE_SAMPLE = 20_000

Maker = Callable[[np.random.Generator], str]


def fuzz_texts(tokenizer: Tokenizer, rng: np.random.Generator, count: int) -> Iterator[str]:
    """`count` texts of 1 to 40 parts: characters of one script, of all, blanks, digits, and the
    tokenizer's own pieces (specials too) in random order."""
    vocab = sorted(tokenizer.backend.get_vocab(with_added_tokens=True))
    chosen = rng.permutation(len(vocab))[:_PIECE_SAMPLE]
    surfaces = [tokenizer.decode([i]) for i in chosen.tolist()]
    pieces = [text for text in surfaces if text and "\ufffd" not in text]
    makers: tuple[Maker, ...] = (
        lambda r: _characters(r, _PLANES[int(r.integers(len(_PLANES)))]),
        lambda r: _pick(r, pieces),
        lambda r: _pick(r, pieces),
        lambda r: " " + _pick(r, pieces),
        lambda r: _pick(r, _BLANKS) * int(r.integers(1, 5)),
        lambda r: str(r.integers(10**6)),
        lambda r: _pick(r, vocab),
    )
    for _ in range(count):
        order = rng.integers(len(makers), size=int(rng.integers(1, 41)))
        yield "".join(makers[k](rng) for k in order.tolist())


def _characters(rng: np.random.Generator, plane: tuple[int, int]) -> str:
    points = rng.integers(*plane, size=int(rng.integers(1, 9))).tolist()
    return "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)


def _pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]
