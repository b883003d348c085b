"""From documents to one number with its uncertainty: bits per byte and its bootstrap interval.

    bits per byte = sum_i bits_i / sum_i bytes_i          (ratio estimator over documents)

The interval resamples documents (Efron and Tibshirani 1993, chapter 13, percentile method), all
models alike, so the difference child - parent is paired.
Shapes: S models, N documents, R resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

RESAMPLES = 2000
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % interval; one document alone has none (both ends are None)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Bits per byte by model name; `difference` is child - parent where both are given."""

    overall: Mapping[str, Interval]
    by_source: Mapping[str, Mapping[str, Interval]]
    """Per source, then per model."""
    macro: Mapping[str, Interval]
    """Mean over sources, each weighing the same."""


def summarise(
    bits_by_model: Mapping[str, FloatArray],
    bytes_N: IntArray,
    sources_N: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
) -> Summary:
    """Bits per byte of every model, overall, per source, and averaged over the sources.

    The macro mean's interval resamples inside each source, so no source can vanish from it.
    """
    names = list(bits_by_model)
    bits_SN = np.stack([bits_by_model[name] for name in names])
    value_S, draw_RS = _ratios(bits_SN, bytes_N, resamples=resamples, rng=rng)
    by_source, values, draws = {}, [], []
    for source in sorted(set(sources_N)):
        mask_N = np.array([s == source for s in sources_N])
        own = _ratios(bits_SN[:, mask_N], bytes_N[mask_N], resamples=resamples, rng=rng)
        by_source[source] = _intervals(names, *own)
        values.append(own[0])
        draws.append(own[1])
    return Summary(
        overall=_intervals(names, value_S, draw_RS),
        by_source=by_source,
        macro=_intervals(names, np.mean(values, axis=0), np.mean(draws, axis=0)),
    )


def _ratios(
    bits_SN: FloatArray, bytes_N: IntArray, *, resamples: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The estimate, shape (S,), and its resamples, shape (R, S): NaN where N = 1."""
    num_documents = bytes_N.size
    value_S = bits_SN.sum(axis=1) / bytes_N.sum()
    if num_documents < 2:
        return value_S, np.full((resamples, len(bits_SN)), np.nan)
    chunks = [
        bits_SN[:, drawn_RN].sum(axis=2).T / bytes_N[drawn_RN].sum(axis=1)[:, None]
        for drawn_RN in _draws(num_documents, resamples, rng)
    ]
    return value_S, np.concatenate(chunks)


def _draws(num_documents: int, resamples: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Resampled document indices in pieces, shape (some of R, N), that fit the memory."""
    rows = max(1, _DRAWN_AT_ONCE // num_documents)
    for start in range(0, resamples, rows):
        size = (min(rows, resamples - start), num_documents)
        yield rng.integers(0, num_documents, size=size)


def _intervals(
    names: Sequence[str], value_S: FloatArray, draw_RS: FloatArray
) -> dict[str, Interval]:
    """One interval a model, and the paired difference when child and parent are there."""
    columns = {name: (value_S[i], draw_RS[:, i]) for i, name in enumerate(names)}
    if {"child", "parent"} <= columns.keys():
        (child, child_R), (parent, parent_R) = columns["child"], columns["parent"]
        columns["difference"] = (child - parent, child_R - parent_R)
    return {name: _interval(float(value), draw_R) for name, (value, draw_R) in columns.items()}


def _interval(value: float, draw_R: FloatArray) -> Interval:
    if np.isnan(draw_R).any():
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(draw_R, [0.025, 0.975])
    return Interval(value=value, low=float(low), high=float(high))
