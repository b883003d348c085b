"""Draw K of N without replacement, p = softmax(score), at any N and in little memory.

Adding Gumbel noise and keeping the K largest is that draw (Kool et al. 2019): no normaliser, no
overflow, and no limit of 2^24 as in `torch.multinomial`. The noise of a number is a function of the
number and a key, so the draw does not depend on how the work is divided. A sample of the numbers
brackets the K-th largest sum; one sweep then keeps what is above the bracket as one bit a number,
and the few inside it, which are sorted out exactly.

Shapes: N numbers, K drawn, C a chunk of numbers, S a sample of them.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import mix64

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
Bits = np.ndarray[Any, np.dtype[np.uint8]]

_CHUNK = 2**16  # numbers at once: the buffers stay in a core's cache
_SAMPLE = 2**20
_ERRORS = 6.0  # standard errors on either side of the sample's quantile
_GOLDEN = 0x9E3779B97F4A7C15


def draw(
    score_N: FloatArray | None,
    *,
    num_units: int,
    num_drawn: int,
    key: int,
    temperature: float = 1.0,
    chunk: int = _CHUNK,
) -> Bits:
    """Which `num_drawn` of `num_units` numbers are drawn: one bit a number, as `np.packbits` does.

    `score_N`: finite, any float, or None where every number is equally likely. `key`: the draw's
    own number; the same key gives the same draw, whatever `chunk` (a multiple of 8). Equal sums go
    to the smaller number. Takes N / 8 bytes beside the scores. Raises `ValueError` unless
    1 <= num_drawn <= num_units.
    """
    if not 1 <= num_drawn <= num_units:
        raise ValueError(f"num_drawn = {num_drawn}, but there are {num_units} to draw from")
    source = _Source(score_N, num_units, _hashed(key), temperature, chunk)
    errors = _ERRORS
    while True:
        low, high = source.bracket(num_drawn, errors)
        bits, number_D, sum_D = source.sweep(low, high)
        missing = num_drawn - int(np.bitwise_count(bits).sum(dtype=np.int64))
        if 0 <= missing <= number_D.size:
            break
        errors *= 4  # the sample was an odd one: less than once in 10^8 draws
    if missing:
        number_D = _largest(number_D, sum_D, missing)
        np.bitwise_or.at(bits, number_D >> 3, (128 >> (number_D & 7)).astype(np.uint8))
    return bits


def numbers_of(bits: Bits, num_units: int) -> Any:
    """The numbers whose bit is set, ascending, so that disks are read forwards; uint32 if they fit.

    Half of 7.8e8 numbers take 1.6 GB. Widen before computing with them.
    """
    dtype = np.uint32 if num_units <= 2**32 else np.int64
    out_K, filled = np.empty(int(np.bitwise_count(bits).sum(dtype=np.int64)), dtype), 0
    step = _CHUNK // 8
    for start in range(0, bits.size, step):
        found = np.flatnonzero(np.unpackbits(bits[start : start + step]).view(np.bool_))
        out_K[filled : filled + found.size] = found + 8 * start
        filled += found.size
    return out_K


def effective_size(score_N: FloatArray, temperature: float = 1.0) -> float:
    """1 / sum p^2 for p = softmax(score / temperature): how many the distribution tells apart."""
    top, total, squares = _top(score_N), 0.0, 0.0
    for start in range(0, score_N.size, _CHUNK):
        chunk_C = score_N[start : start + _CHUNK].astype(np.float64)
        weight_C = np.exp((chunk_C - top) / temperature)
        total += float(weight_C.sum())
        squares += float(np.square(weight_C).sum())
    return total**2 / squares


@dataclass(frozen=True)
class _Source:
    """Score plus noise of any number."""

    score_N: FloatArray | None
    num_units: int
    key: int
    temperature: float
    chunk: int

    def bracket(self, num_drawn: int, errors: float) -> tuple[float, float]:
        """Two values with the K-th largest sum between them, all but surely."""
        if self.num_units <= _SAMPLE:
            return -np.inf, np.inf
        # Numbers by a hash of their own: scores may be periodic, a stride would see it.
        ticket_S = np.arange(_SAMPLE, dtype=np.uint64) * np.uint64(_GOLDEN)
        ticket_S += np.uint64(_hashed(self.key))
        number_S = mix64(ticket_S) % np.uint64(self.num_units)
        score_S = None if self.score_N is None else self.score_N[number_S]
        hash_S = number_S * np.uint64(_GOLDEN) + np.uint64(self.key)
        sum_S = np.sort(self._sums(hash_S, score_S, self._center()))
        share = num_drawn / self.num_units
        rank, error = _SAMPLE * (1 - share), np.sqrt(_SAMPLE * share * (1 - share))
        below, above = int(rank - errors * error) - 2, int(rank + errors * error) + 2
        return (
            float(sum_S[below]) if below >= 0 else -np.inf,
            float(sum_S[above]) if above < _SAMPLE else np.inf,
        )

    def sweep(self, low: float, high: float) -> tuple[Bits, IntArray, Any]:
        """A bit for every number above `high`; numbers and sums of those from `low` to `high`."""
        bits = np.zeros(-(-self.num_units // 8), np.uint8)
        center, score_N = self._center(), self.score_N
        hash_C = np.arange(self.chunk, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(self.key)

        def work(span: range) -> list[tuple[IntArray, Any]]:
            doubts = []
            for start in span:
                stop = min(start + self.chunk, self.num_units)
                offset = np.uint64(start * _GOLDEN % 2**64)
                score_C = None if score_N is None else score_N[start:stop]
                sum_C = self._sums(hash_C[: stop - start] + offset, score_C, center)
                above_C = sum_C > high
                packed = np.packbits(above_C)
                bits[start // 8 : start // 8 + packed.size] = packed
                doubt_D = np.flatnonzero((sum_C >= low) & ~above_C)
                doubts.append((doubt_D + start, sum_C[doubt_D]))
            return doubts

        found = [pair for doubts in _in_threads(work, self._spans()) for pair in doubts]
        return bits, np.concatenate([n for n, _ in found]), np.concatenate([s for _, s in found])

    def _spans(self) -> Iterator[range]:
        step = 256 * self.chunk
        for start in range(0, self.num_units, step):
            yield range(start, min(start + step, self.num_units), self.chunk)

    def _center(self) -> float:
        return 0.0 if self.score_N is None else _top(self.score_N)

    def _sums(self, hash_C: Any, score_C: FloatArray | None, center: float) -> Any:
        """Score minus `center`, over temperature, plus Gumbel noise; float32. Spends `hash_C`.

        The noise is computed in float64 and rounded once, so the last bit of a machine's logarithm
        hardly ever shows.
        """
        mix64(hash_C)
        hash_C >>= np.uint64(12)
        hash_C |= np.uint64(0x3FF0000000000000)  # 52 random bits as a float from 1 to 2
        noise_C = hash_C.view(np.float64)
        noise_C -= 1 - 2.0**-53  # strictly between 0 and 1
        np.log(noise_C, out=noise_C)
        np.negative(noise_C, out=noise_C)
        np.log(noise_C, out=noise_C)
        sum_C = noise_C.astype(np.float32)
        np.negative(sum_C, out=sum_C)
        if score_C is not None:
            excess_C = score_C.astype(np.float32)
            excess_C -= np.float32(center)
            excess_C /= np.float32(self.temperature)
            sum_C += excess_C
        return sum_C


def _hashed(key: int) -> int:
    return int(mix64(np.array([key % 2**64], np.uint64))[0])


def _top(score_N: FloatArray) -> float:
    """The largest score: sums are small beside it, and float32 then keeps their last digits."""
    chunks = range(0, score_N.size, _CHUNK)
    return max(float(score_N[c : c + _CHUNK].astype(np.float32).max()) for c in chunks)


def _largest(number_D: IntArray, sum_D: Any, wanted: int) -> IntArray:
    """The numbers of the `wanted` largest sums; among equal ones the smaller numbers."""
    edge = np.partition(sum_D, sum_D.size - wanted)[sum_D.size - wanted]
    above_D, equal_D = sum_D > edge, np.flatnonzero(sum_D == edge)
    above_D[equal_D[: wanted - int(above_D.sum())]] = True
    largest_K: IntArray = number_D[above_D]
    return largest_K


def _in_threads(work: Any, spans: Iterator[range]) -> Any:
    """`work` on every span, in order; numpy lets threads run side by side."""
    todo = list(spans)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    if len(todo) == 1 or threads == 1:
        return [work(span) for span in todo]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, todo))
