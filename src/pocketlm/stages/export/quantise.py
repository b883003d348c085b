"""How a gguf file keeps numbers: formats, which tensor gets which, and the error each may make.

In a Q format 32 neighbours of a row share one float16 scale d, and a number is d times a whole
number: -127 to 127 in Q8_0, -16 to 15 in Q5_0, -8 to 7 in Q4_0 (llama.cpp, ggml-common.h). The
size of these groups is part of the format. Q8_0 takes d = max |w| / 127. In the narrow ones that
rule wastes range, so d is chosen by least squares: of codes tried for several scales, each with
the scale that then fits best, those with the smallest squared error stay (as llama.cpp's own
make_qx_quants does; here without weights of importance).

Shapes: N blocks of 32 numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pocketlm.errors import RecipeError, did_you_mean

FloatArray = npt.NDArray[np.float32]
Weights = Literal["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0"]

BLOCK = 32
_LOWEST: Mapping[str, int] = {"Q5_0": -16, "Q4_0": -8}
_WORST = {"Q5_0": 0.12, "Q4_0": 0.2}  # times max |w|; least squares cuts off more than a half step
_SCALES = np.linspace(0.8, 1.1, 13, dtype=np.float32)  # times max |w| / -lowest


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which parts of a model a narrow file keeps wider, by the family's names of parts."""

    parts: Mapping[str, Weights] = field(default_factory=dict)

    def of(self, part: str, weights: Weights) -> Weights:
        """How a matrix of `part` is kept in a file of `weights`; never narrower than those."""
        own = self.parts.get(part, weights)
        return own if WIDTH[own] > WIDTH[weights] else weights


PLAIN = Choice()
WIDTH: Mapping[Weights, float] = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q5_0": 5.5, "Q4_0": 4.5,
}  # fmt: skip
"""Bits a number, its share of a scale included."""


def kind_of(values: FloatArray, weights: Weights) -> Weights:
    """How one tensor is kept: vectors float32, rows that are no whole blocks F16."""
    if values.ndim == 1:
        return "F32"
    return "F16" if weights.startswith("Q") and values.shape[-1] % BLOCK else weights


def quantised(values: FloatArray, weights: Weights) -> npt.NDArray[Any]:
    """The bytes of a tensor as the file keeps them, a row each; same numbers, same bytes."""
    import gguf

    if weights not in _LOWEST:
        kept: npt.NDArray[Any] = gguf.quantize(values, gguf.GGMLQuantizationType[weights])
        return kept
    scales_N1, codes_N32 = fit_blocks(values.reshape(-1, BLOCK), _LOWEST[weights])
    packed = _pack(scales_N1, codes_N32, weights)
    return packed.reshape(*values.shape[:-1], -1)


def fit_blocks(values_N32: FloatArray, lowest: int) -> tuple[FloatArray, npt.NDArray[np.int8]]:
    """Scales_N1, numbers that float16 can hold, and whole codes_N32 from `lowest` to -lowest - 1.

    The scale has the sign that gives the largest number of a block the wider side.
    """
    count = len(values_N32)
    at_N = np.abs(values_N32).argmax(axis=1)
    largest_N1 = values_N32[np.arange(count), at_N][:, None]
    best_N1 = np.zeros_like(largest_N1)
    codes_N32 = np.zeros(values_N32.shape, dtype=np.int8)
    error_N1 = np.full_like(largest_N1, np.inf)
    for scale in _SCALES:
        tried_N1 = _as_float16(largest_N1 / np.float32(lowest) * scale)
        whole_N32 = np.rint(_divide(values_N32, tried_N1)).clip(lowest, -lowest - 1)
        norm_N1 = (whole_N32 * whole_N32).sum(axis=1, keepdims=True)
        fitted_N1 = (whole_N32 * values_N32).sum(axis=1, keepdims=True)
        fitted_N1 = _as_float16(_divide(fitted_N1, norm_N1))
        off_N1 = ((fitted_N1 * whole_N32 - values_N32) ** 2).sum(axis=1, keepdims=True)
        better_N1 = off_N1 < error_N1
        best_N1 = np.where(better_N1, fitted_N1, best_N1)
        codes_N32 = np.where(better_N1, whole_N32.astype(np.int8), codes_N32)
        error_N1 = np.minimum(off_N1, error_N1)
    return best_N1, codes_N32


def rounding(values: FloatArray, weights: Weights) -> FloatArray | float:
    """The largest error the format may make, per number."""
    size = np.abs(values)
    if weights == "F32":
        return 0.0
    if weights == "F16":
        return np.asarray(np.abs(_as_float16(values) - values))
    if weights == "BF16":
        return size * np.float32(2**-8)
    largest = size.reshape(-1, BLOCK).max(axis=1, keepdims=True)
    if weights == "Q8_0":
        # Half a step of the block's scale, and the scale itself is rounded to float16.
        scale = largest / np.float32(127)
        bound = np.float32(0.5001) * scale + 127 * np.abs(scale - _as_float16(scale))
    else:
        # Steps of the scale tried first; float16 keeps no scale below 6e-8.
        bound = np.float32(_WORST[weights]) * largest + np.float32(1e-6)
    return np.repeat(bound, BLOCK, axis=1).reshape(values.shape)


def choice_of(keep_8bit: tuple[str, ...], embedding_weights: str | None) -> Choice:
    """What a recipe's [export] says; raises `RecipeError` for a format there is not."""
    parts: dict[str, Weights] = dict.fromkeys(keep_8bit, "Q8_0")
    if embedding_weights is not None:
        name = embedding_weights.upper()
        named: dict[str, Weights] = {known: known for known in WIDTH}
        if name not in named:
            known = did_you_mean(embedding_weights, [own.lower() for own in WIDTH])
            raise RecipeError(
                f"[export] embedding_weights = {embedding_weights!r}: no such format; {known}"
            )
        parts["embedding"] = named[name]
    return Choice(parts=parts)


def _pack(
    scales_N1: FloatArray, codes_N32: npt.NDArray[np.int8], weights: Weights
) -> npt.NDArray[np.uint8]:
    """Blocks as ggml-common.h lays them out: scale, (fifth bits,) then number j and j + 16."""
    raw_N32 = (codes_N32 - _LOWEST[weights]).astype(np.uint8)
    low_N32 = raw_N32 & np.uint8(15)
    parts: list[npt.NDArray[np.uint8]] = [scales_N1.astype("<f2").view(np.uint8)]
    if weights == "Q5_0":
        parts.append(np.packbits(raw_N32 >> np.uint8(4), axis=1, bitorder="little"))
    parts.append(low_N32[:, :16] | low_N32[:, 16:] << np.uint8(4))
    return np.concatenate(parts, axis=1)


def _as_float16(values: FloatArray) -> FloatArray:
    kept: FloatArray = values.astype(np.float16).astype(np.float32)
    return kept


def _divide(above: FloatArray, below: FloatArray) -> FloatArray:
    """0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)
