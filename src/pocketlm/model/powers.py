"""Sums of powers, fitted by variable projection: many fits side by side.

    y_r = c_0 + sum_t c_t exp(-e_t l_rt),   c >= 0,   l: logarithms of what is varied

For given exponents e the coefficients c are linear least squares, so only e is searched (Golub and
Pereyra 1973, with the Jacobian of Kaufman 1975), by damped Gauss-Newton steps in log e. Bootstraps
need thousands of fits, so all of them take each step together.
Residuals are relative, (y - fit) / y, and each counts with its run's weight.
Shapes: R runs, B fits (resamples, starts, runs left out), T terms, K = 1 + T coefficients.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 0.01, 4.0  # exponents; published ones of losses lie between 0.05 and 0.7
MOST_STEPS = 100  # 10 to 15 are usual
MOST_REWEIGHTINGS, STEPS_EACH = 100, 4  # every step lowers Huber's loss, so few between two
_RIDGE = 1e-13  # of a diagonal of ones: keeps the collinear from being refused


@dataclass
class Powers:
    """B fits and what the next step from them needs; all leading axes are B."""

    exponent_BT: Floats
    coefficient_BK: Floats
    column_BRK: Floats
    """1 and the powers, each row times sqrt(weight) / y."""
    residual_BR: Floats
    """Relative residuals times sqrt(weight)."""
    error_B: Floats
    """Sum of squares of those."""

    def __getitem__(self, index: NDArray[np.int64 | np.bool]) -> "Powers":
        return Powers(*(value[index] for value in vars(self).values()))

    def __setitem__(self, index: NDArray[np.int64 | np.bool], other: "Powers") -> None:
        for name, value in vars(self).items():
            value[index] = getattr(other, name)


@dataclass(frozen=True)
class Data:
    """What the powers are fitted to."""

    log_RT: Floats
    """Centred for a good condition: the mean of each column near 0."""
    y_R: Floats
    """Above 0."""

    def fit(self, start_BT: Floats, weight_BR: Floats, most_steps: int = MOST_STEPS) -> Powers:
        """The least relative squares from each start, for each row of weights."""
        root_BR = np.sqrt(weight_BR)
        best = self._at(start_BT, root_BR)
        live = np.arange(len(start_BT))
        damping = np.full(len(start_BT), 1e-2)
        for _ in range(most_steps):
            now = best[live]
            step_BT = self._step(now, damping[live])
            tried_BT = np.clip(now.exponent_BT * np.exp(step_BT), LOWEST, HIGHEST)
            tried = self._at(tried_BT, root_BR[live])
            better = tried.error_B < now.error_B
            best[live[better]] = tried[better]
            damping[live] *= np.where(better, 0.1, 10.0)
            still = np.abs(tried_BT / now.exponent_BT - 1).max(axis=1) < 1e-9
            still |= better & (now.error_B - tried.error_B < 1e-13 * now.error_B)
            live = live[~still & (damping[live] < 1e10)]
            if not live.size:
                break
        return best

    def fit_robust(self, start_BT: Floats, weight_BR: Floats, huber: float | None) -> Powers:
        """The same under Huber's loss: beyond `huber`, relative residuals count by their size."""
        found = self.fit(start_BT, weight_BR)
        live = np.arange(len(start_BT) if huber else 0)
        for _ in range(MOST_REWEIGHTINGS):
            if not live.size:
                break
            before = found[live]
            large_BR = np.maximum(np.abs(self.relative_residuals(before)) / (huber or 1.0), 1.0)
            after = self.fit(before.exponent_BT, weight_BR[live] / large_BR, STEPS_EACH)
            found[live] = after
            moved_B = np.abs(after.exponent_BT / before.exponent_BT - 1).max(axis=1)
            live = live[moved_B > 1e-7]
        return found

    def relative_residuals(self, found: Powers) -> Floats:
        """(y - fit) / y of every run under every fit, [B, R]."""
        power_BRT = np.exp(-found.exponent_BT[:, None] * self.log_RT)
        term_BRT = found.coefficient_BK[:, None, 1:] * power_BRT
        value_BR = found.coefficient_BK[:, :1] + term_BRT.sum(axis=2)
        return np.asarray(1 - value_BR / self.y_R)

    def _at(self, exponent_BT: Floats, root_BR: Floats) -> Powers:
        """The best coefficients for given exponents."""
        power_BRT = np.exp(-exponent_BT[:, None] * self.log_RT)
        one_BR1 = np.ones((*root_BR.shape, 1))
        column_BRK = np.concatenate([one_BR1, power_BRT], axis=2)
        column_BRK *= (root_BR / self.y_R)[:, :, None]
        coefficient_BK = solve_non_negative(column_BRK, root_BR)
        residual_BR = root_BR - np.einsum("brk,bk->br", column_BRK, coefficient_BK)
        error_B = (residual_BR**2).sum(axis=1)
        return Powers(exponent_BT.copy(), coefficient_BK, column_BRK, residual_BR, error_B)

    def _step(self, now: Powers, damping_B: Floats) -> Floats:
        """Damped Gauss-Newton step of log e: the coefficients follow to first order (Kaufman)."""
        slope_BRT = -self.log_RT * now.column_BRK[:, :, 1:]
        slope_BRT *= (now.coefficient_BK[:, 1:] * now.exponent_BT)[:, None]
        used_BK = (now.coefficient_BK > 0).astype(np.float64)
        column_BRK = now.column_BRK * (used_BK / _norms(now.column_BRK))[:, None]
        gram_BKK = _transposed(column_BRK) @ column_BRK + _diagonal(1 - used_BK)
        slope_BRT -= column_BRK @ _solve(gram_BKK, _transposed(column_BRK) @ slope_BRT)
        curve_BTT = _transposed(slope_BRT) @ slope_BRT
        own_BT = np.einsum("btt->bt", curve_BTT)
        # A term with no coefficient has no slope; the least of floors keeps its row solvable.
        floor_BT = 1e-14 * own_BT.max(axis=1, keepdims=True) + 1e-300
        curve_BTT = curve_BTT + _diagonal(damping_B[:, None] * own_BT + floor_BT)
        towards_BT1 = _transposed(slope_BRT) @ now.residual_BR[:, :, None]
        return np.clip(np.linalg.solve(curve_BTT, towards_BT1)[:, :, 0], -1, 1)


def solve_non_negative(column_BRK: Floats, target_BR: Floats) -> Floats:
    """c_BK >= 0 of least |target - column c|^2, exactly: for few K every support can be tried."""
    norm_BK = _norms(column_BRK)
    scaled_BRK = column_BRK / norm_BK[:, None]
    gram_BKK = _transposed(scaled_BRK) @ scaled_BRK
    right_BK1 = _transposed(scaled_BRK) @ target_BR[:, :, None]
    found_BK = _solve(gram_BKK, right_BK1)[:, :, 0]
    wrong = (found_BK < 0).any(axis=1)
    if wrong.any():
        found_BK[wrong] = _best_support(gram_BKK[wrong], right_BK1[wrong])
    return found_BK / norm_BK


def _best_support(gram_BKK: Floats, right_BK1: Floats) -> Floats:
    """The optimum is the plain solution on its own support S, so the best legal one of those."""
    k = gram_BKK.shape[-1]
    support_SK = np.array(list(product((0.0, 1.0), repeat=k)))
    pair_SKK = support_SK[:, :, None] * support_SK[:, None, :]
    gram_BSKK = gram_BKK[:, None] * pair_SKK + _diagonal(1 - support_SK)
    found_BSK = _solve(gram_BSKK, right_BK1[:, None] * support_SK[:, :, None])[..., 0]
    gain_BS = (found_BSK @ right_BK1)[:, :, 0]  # what the squares fall by
    gain_BS[(found_BSK < 0).any(axis=2)] = -np.inf
    return np.take_along_axis(found_BSK, gain_BS.argmax(axis=1)[:, None, None], axis=1)[:, 0]


def _norms(column_BRK: Floats) -> Floats:
    return np.asarray(np.sqrt((column_BRK**2).sum(axis=1)))


def _transposed(x: Floats) -> Floats:
    return np.swapaxes(x, -1, -2)


def _diagonal(value: Floats) -> Floats:
    """[..., K] -> [..., K, K]."""
    return value[..., None] * np.eye(value.shape[-1])


def _solve(gram: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(gram + _RIDGE * np.eye(gram.shape[-1]), right), np.float64)
