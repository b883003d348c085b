"""Fitted laws: how the loss falls with parameters and tokens, and how a best rate moves with batch.

    L(N, D) = E + A / N^alpha + B / D^beta      (Hoffmann et al. 2022, arXiv 2203.15556, approach 3)

Residuals are relative, (L - law) / L. Hoffmann takes log L - log law; the two differ by the square
of the noise (1e-4 where runs scatter by 1 %), and only the relative one stays linear in E, A, B, so
that variable projection is exact (`model/powers.py`).
Intervals are percentiles over resampled runs (`model/redraw.py`); best rates: `model/sweep.py`.
Shapes: R runs, C distinct (N, D), T terms (one of N, one of D, or one alone), B fits side by side.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pocketlm.errors import RecipeError
from pocketlm.model.powers import HIGHEST, LOWEST, Data, Floats, Powers
from pocketlm.model.redraw import draw_points, percentiles, points_of
from pocketlm.model.sweep import Best, PowerLaw, best_by_parabola, fit_power_exponent
from pocketlm.units import show_count

__all__ = [
    "Best", "LossLaw", "LossPoint", "PowerLaw", "best_by_parabola", "fit_loss_law",
    "fit_power_exponent",
]  # fmt: skip

NAMES = ("E", "A", "alpha", "B", "beta")
COUNTS = ("parameters", "tokens")
STARTS = np.geomspace(0.05, 2.0, 6)  # of each exponent; all combinations
TIED = 0.999  # correlation of log N and log D from which on they count as one
LEVELS = 3  # distinct counts without which a power and a constant cannot be told apart


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """What one run tells: its size, its data and where its loss ended."""

    parameters: float
    tokens: float
    loss: float
    """Nats per token, bits per byte: any unit, one for all runs."""
    weight: float = 1.0
    """A run of weight 2 counts as two."""


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """E + A / N^alpha + B / D^beta, the fits to its resamples, and how well it fits.

    Where N or D was the same in all runs its term is 0, E contains it, and `fixed_...` says so.
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    fixed_parameters: float | None
    fixed_tokens: float | None
    relative_errors: tuple[float, ...]
    """(Measured - fitted) / measured loss of every run, in the order given."""
    left_out_errors: tuple[tuple[float, float | None], ...]
    """Each N (each D where N is fixed) with the root mean square relative error of its runs under
    the law fitted without them; None where the others do not suffice."""
    draws: tuple[tuple[float, ...], ...]
    """E, A, alpha, B, beta of every resample."""

    def predict(self, parameters: ArrayLike, tokens: ArrayLike) -> Floats:
        """Loss at N and D, which broadcast; `RecipeError` off a count that all runs shared."""
        return self._evaluate((self.E, self.A, self.alpha, self.B, self.beta), parameters, tokens)

    def interval(
        self, parameters: float, tokens: float, *, level: float = 0.95
    ) -> tuple[float, float]:
        """Where the law lies at one N and D: the mean of many runs there. Errors as `predict`."""
        return percentiles(self._evaluate(np.array(self.draws).T, parameters, tokens), level)

    def run_interval(
        self, parameters: float, tokens: float, *, level: float = 0.95
    ) -> tuple[float, float]:
        """Where one more run would end: the resampled laws times the errors of the fitted runs.

        R runs around P fitted numbers scatter too little; their errors grow by sqrt(R / (R - P)).
        Errors as `predict`.
        """
        law_B = self._evaluate(np.array(self.draws).T, parameters, tokens)
        error_R = np.array(self.relative_errors)
        num_fitted = 5 if self.fixed_parameters is None and self.fixed_tokens is None else 3
        error_R *= np.sqrt(error_R.size / (error_R.size - num_fitted))
        return percentiles(law_B[:, None] * (1 + error_R), level)

    def parameter_intervals(self, *, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """E, A, alpha, B, beta -> interval."""
        columns = np.array(self.draws).T
        return {
            name: percentiles(column, level) for name, column in zip(NAMES, columns, strict=True)
        }

    def compute_optimal(
        self, flops: float, *, flops_per_param_token: float = 6.0
    ) -> tuple[float, float]:
        """(N, D) of least loss with flops = flops_per_param_token N D (Hoffmann, equation 4).

        N = G (C / k)^(beta / (alpha + beta)) with G = (alpha A / (beta B))^(1 / (alpha + beta)).
        `RecipeError` where the loss does not fall with both.
        """
        if not (self.A > 0 and self.B > 0):
            raise RecipeError(
                "scaling law: no compute optimum, for the loss does not fall with both counts "
                f"(A = {self.A:.3g}, B = {self.B:.3g}); fit it to runs that vary both"
            )
        both = self.alpha + self.beta
        product_ND = flops / flops_per_param_token
        log_ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        parameters = float(np.exp((log_ratio + self.beta * np.log(product_ND)) / both))
        return parameters, product_ND / parameters

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the numbers do not say: terms at the end of their range."""
        found = []
        if self.E == 0:
            found.append("E = 0: the runs show no floor; beyond them the law is too low")
        for name, exponent, fixed in (
            ("alpha", self.alpha, self.fixed_parameters),
            ("beta", self.beta, self.fixed_tokens),
        ):
            if fixed is None and not 1.01 * LOWEST < exponent < 0.99 * HIGHEST:
                found.append(
                    f"{name} = {exponent:.3g}: the end of its range; the runs do not determine it"
                )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "LossLaw":
        """The law that `as_dict` wrote, also after JSON; `RecipeError` on other keys."""
        names = {field.name for field in fields(cls)}
        if set(given) != names:
            wrong = ", ".join(sorted(names ^ set(given)))
            raise RecipeError(f"scaling law: keys missing or not known: {wrong}; fit it again")
        return cls(**{name: _frozen(value) for name, value in given.items()})

    def _evaluate(self, numbers: Iterable[Any], parameters: ArrayLike, tokens: ArrayLike) -> Floats:
        """The law of E, A, alpha, B, beta: five numbers, or five rows of resamples."""
        asked = [np.asarray(count, np.float64) for count in (parameters, tokens)]
        fixed = (self.fixed_parameters, self.fixed_tokens)
        for what, only, count in zip(COUNTS, fixed, asked, strict=True):
            if only is not None and not np.allclose(count, only):
                raise RecipeError(
                    f"scaling law: all runs had {show_count(only)} {what}, so it holds there only; "
                    f"fit it to runs of {LEVELS} or more numbers of {what}"
                )
        E, A, alpha, B, beta = (np.asarray(number) for number in numbers)
        return np.asarray(E + A * asked[0] ** -alpha + B * asked[1] ** -beta)


def fit_loss_law(
    runs: Sequence[LossPoint],
    *,
    huber: float | None = None,
    resamples: int = 1000,
    rng: np.random.Generator,
) -> LossLaw:
    """Fit the law to runs; where N or D is the same in all, the law in the other alone.

    `huber`: relative error beyond which a run counts by its error and not by the square (Hoffmann:
    0.001); set it where runs may have gone wrong. Raises `RecipeError` where the runs do not
    determine the law: it needs three values of each count that varies, and more distinct (N, D)
    than fitted numbers (5, or 3 for one count alone).
    """
    count_R2, loss_R, weight_R = _columns(runs)
    varied = [t for t in range(2) if np.unique(count_R2[:, t]).size > 1]
    lacking = _lacking(count_R2, varied)
    if lacking is not None:
        raise RecipeError(f"scaling law: {lacking}")
    if huber is not None and not huber > 0:
        raise RecipeError(f"scaling law: huber = {huber}: a relative error above 0, such as 0.01")
    log_RT = np.log(count_R2[:, varied])
    centre_T = log_RT.mean(axis=0)
    data = Data(log_RT - centre_T, loss_R)

    first_R = count_R2[:, varied[0]]
    levels = [x for x in np.unique(first_R) if _lacking(count_R2[first_R != x], varied) is None]
    rows = [np.ones_like(loss_R), *(first_R != x for x in levels)]
    weight_BR = weight_R * np.concatenate([rows, _resample(log_RT, resamples, rng)])
    found = data.fit_robust(_start(data, weight_R, len(weight_BR)), weight_BR, huber)

    error_BR = data.relative_residuals(found)
    left_out = {x: error_BR[1 + i, first_R == x] for i, x in enumerate(levels)}
    numbers_B5 = _numbers(found, varied, centre_T)
    return LossLaw(
        **dict(zip(NAMES, numbers_B5[0].tolist(), strict=True)),
        fixed_parameters=None if 0 in varied else float(count_R2[0, 0]),
        fixed_tokens=None if 1 in varied else float(count_R2[0, 1]),
        relative_errors=tuple(error_BR[0].tolist()),
        left_out_errors=tuple(
            (float(x), float(np.sqrt((left_out[x] ** 2).mean())) if x in left_out else None)
            for x in np.unique(first_R)
        ),
        draws=_frozen(numbers_B5[1 + len(levels) :].tolist()),
    )


def _start(data: Data, weight_R: Floats, num_fits: int) -> Floats:
    """The exponents of all runs, the best from every start, for each fit to begin at."""
    start_ST = np.array(list(product(STARTS, repeat=data.log_RT.shape[1])))
    tries = data.fit(start_ST, np.tile(weight_R, (len(start_ST), 1)))
    return np.tile(tries.exponent_BT[tries.error_B.argmin()], (num_fits, 1))


def _resample(log_RT: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each resample holds each run, [B, R]."""
    point_CT, index_R = points_of(log_RT)
    least = 1 + 2 * log_RT.shape[1]
    counts_BC = draw_points(
        point_CT, least_points=least, least_levels=LEVELS, resamples=resamples, rng=rng
    )
    return counts_BC[:, index_R]


def _numbers(found: Powers, varied: list[int], centre_T: Floats) -> Floats:
    """E, A, alpha, B, beta of each fit, [B, 5], for counts that are not centred."""
    numbers_B5 = np.zeros((len(found.error_B), 5))
    numbers_B5[:, 0] = found.coefficient_BK[:, 0]
    for t, count in enumerate(varied):
        exponent_B = found.exponent_BT[:, t]
        numbers_B5[:, 1 + 2 * count] = found.coefficient_BK[:, 1 + t] * np.exp(
            exponent_B * centre_T[t]
        )
        numbers_B5[:, 2 + 2 * count] = exponent_B
    return numbers_B5


def _columns(runs: Sequence[LossPoint]) -> tuple[Floats, Floats, Floats]:
    """N and D [R, 2], loss [R], weight [R]; `RecipeError` where one is not above 0."""
    for number, run in enumerate(runs):
        for name, value in asdict(run).items():
            if not (np.isfinite(value) and value > 0):
                raise RecipeError(
                    f"scaling law: run {number} has {name} = {value}; all must be finite and above "
                    "0, so leave diverged runs out"
                )
    table_R4 = np.array([(r.parameters, r.tokens, r.loss, r.weight) for r in runs], np.float64)
    table_R4 = table_R4.reshape(-1, 4)
    return table_R4[:, :2], table_R4[:, 2], table_R4[:, 3]


def _lacking(count_R2: Floats, varied: list[int]) -> str | None:
    """Which runs are missing to determine the law in the counts that vary; None if none are."""
    if not varied:
        return f"{len(count_R2)} runs, none of other parameters or tokens; vary one, or both"
    for t in varied:
        level_L = np.unique(count_R2[:, t])
        if level_L.size < LEVELS:
            given = ", ".join(show_count(float(level)) for level in level_L)
            return (
                f"runs at {level_L.size} numbers of {COUNTS[t]} ({given}) cannot tell a power "
                f"from a constant; add {LEVELS - level_L.size} more, or keep to one number"
            )
    num_points = len(np.unique(count_R2, axis=0))
    num_fitted = 1 + 2 * len(varied)
    if num_points <= num_fitted:
        return (
            f"{num_points} distinct (parameters, tokens) for {num_fitted} fitted numbers; "
            f"add runs of {num_fitted + 1 - num_points} more (seeds of one point are one)"
        )
    if len(varied) == 2 and abs(np.corrcoef(np.log(count_R2).T)[0, 1]) > TIED:
        return (
            "tokens follow parameters in all runs, so their powers cannot be told apart; "
            "add runs of one size at several numbers of tokens"
        )
    return None


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, to tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
