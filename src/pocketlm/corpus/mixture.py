"""Sources with weights: how often each is read in one pass, by index arithmetic.

    M_s = round(w_s N_s) blocks of source s in a pass, of the N_s it holds

Block p < M_s of source s is its block p mod N_s in each full repetition. What is left, less than
one repetition, is spread over the source by a keyed permutation, the same for every recipe and
round. So weight 1 is every block once, 2 twice, 2.5 twice and every second block once more, 0.5
every second block, 0 none. A block read twice has two numbers. No list of blocks is held.
Shapes: B blocks, S sources.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.corpus.blocks import shuffled
from pocketlm.corpus.row import IntArray, Span
from pocketlm.errors import RecipeError


@dataclass(frozen=True)
class Mixture:
    """Blocks of `seq_len` tokens of each span, as often as its weight says."""

    spans: tuple[Span, ...]
    weights: tuple[float, ...]
    seq_len: int

    def __len__(self) -> int:
        return sum(self.blocks_S)

    @property
    def blocks_S(self) -> list[int]:
        """Blocks of each source in a pass."""
        pairs = zip(self._held_S, self.weights, strict=True)
        return [round(weight * held) for held, weight in pairs]

    @property
    def _held_S(self) -> list[int]:
        """Blocks each source holds; its last token is a target only."""
        return [max(0, (s.stop - s.start - 1) // self.seq_len) for s in self.spans]

    def starts(self, block_B: IntArray) -> IntArray:
        """Where in the row the given blocks of the pass begin, in tokens."""
        first_S = np.cumsum([0, *self.blocks_S])
        source_B = np.searchsorted(first_S, block_B, side="right") - 1
        start_B = np.empty(len(block_B), np.int64)
        for number in np.unique(source_B).tolist():
            here_B = source_B == number
            span, held = self.spans[number], self._held_S[number]
            place_B = block_B[here_B] - first_S[number]
            block_in_source_B = place_B % held
            partial_B = place_B >= self.blocks_S[number] // held * held
            key = zlib.crc32(span.source.encode())
            block_in_source_B[partial_B] = shuffled(
                block_in_source_B[partial_B], size=held, key=key
            )
            start_B[here_B] = span.start + block_in_source_B * self.seq_len
        return start_B


def mix(spans: Sequence[Span], weights: Mapping[str, float], seq_len: int) -> Mixture:
    """The mixture of `spans`; sources that `weights` does not name keep weight 1."""
    of_each = tuple(float(weights.get(span.source, 1.0)) for span in spans)
    return Mixture(tuple(spans), of_each, seq_len)


def check_weights(weights: Mapping[str, float], sources: Sequence[str]) -> None:
    """Raise `RecipeError` for a source that is not there, or if none is left."""
    unknown = sorted(set(weights) - set(sources))
    if unknown:
        raise RecipeError(
            f"[corpus] weights: no source {unknown[0]!r}; there are {', '.join(sources)}"
        )
    if not any(weights.get(source, 1.0) for source in sources):
        raise RecipeError("[corpus] weights: every source has weight 0; give one a weight above 0")
