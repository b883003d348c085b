"""What every size of a vocabulary costs in length: one ranking, one count.

    tokens(K) = T0 + sum over what is gone at size K of U(t) extra(t)
T0 all tokens counted; U(t) usage (`select`); extra(t) what a use costs without t (`derive`). Gone
is what is not kept, and what is built from something that is not.
Shapes: K sizes, P parent ids, R ranked ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.stages.compact.derive import Vocabulary
from pocketlm.stages.compact.select import Ranking, largest_above, optional, usage

if TYPE_CHECKING:
    from pocketlm.stages.compact.count import Counts

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
NUM_CURVE_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What one size would cost."""

    vocab_size: int
    coverage: float
    """Share of the counted tokens whose piece is kept, 0..1."""
    tokens_per_byte: float
    """Estimated from counts, without encoding again."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Every size of one ranking, from what must stay to all of the parent's."""

    vocab_size_K: IntArray
    """Ascending without holes."""
    coverage_K: FloatArray
    tokens_per_byte_K: FloatArray

    @property
    def smallest(self) -> int:
        """Tokens that must stay."""
        return int(self.vocab_size_K[0])

    @property
    def largest(self) -> int:
        """Tokens of the parent."""
        return int(self.vocab_size_K[-1])

    def at(self, vocab_size: int) -> CurvePoint:
        """The point of one size between `smallest` and `largest`."""
        k = vocab_size - self.smallest
        return CurvePoint(
            vocab_size=vocab_size,
            coverage=float(self.coverage_K[k]),
            tokens_per_byte=float(self.tokens_per_byte_K[k]),
        )

    def points(self, n: int = NUM_CURVE_POINTS) -> tuple[CurvePoint, ...]:
        """At most `n` points, their sizes in equal ratios, both ends among them."""
        sizes = np.geomspace(max(self.smallest, 1), self.largest, n).round().astype(int)
        return tuple(self.at(int(size)) for size in np.unique(sizes))


def curve_of(
    vocabulary: Vocabulary, ranking: Ranking, mandatory: Mapping[int, str], counts: "Counts"
) -> Curve:
    """Coverage and length at every size; exact coverage, estimated length.

    The length is good to 1 % while most of the text keeps its pieces. A Unigram's or WordPiece's
    pieces lean on each other, which the formula leaves out: small sizes come out too short.
    """
    optional_R = optional(ranking, mandatory)
    place_P = np.full(vocabulary.length_P.size, -1, dtype=np.int64)
    place_P[optional_R] = np.arange(optional_R.size)
    gone_R = largest_above(vocabulary, place_P)[optional_R]
    lost_R = (usage(vocabulary, counts.counts_P) * vocabulary.extra_P)[optional_R]
    extra_R = np.bincount(gone_R, weights=lost_R, minlength=optional_R.size)
    num_tokens = counts.num_tokens
    return Curve(
        vocab_size_K=len(mandatory) + np.arange(optional_R.size + 1),
        coverage_K=1.0 - _sum_from(counts.counts_P[optional_R]) / num_tokens,
        tokens_per_byte_K=(num_tokens + _sum_from(extra_R)) / counts.num_bytes,
    )


def _sum_from(value_R: npt.NDArray[Any]) -> FloatArray:
    """Entry k is the sum from place k on; one entry more, 0."""
    sums: FloatArray = np.zeros(value_R.size + 1)
    sums[:-1] = np.cumsum(value_R[::-1])[::-1]
    return sums
