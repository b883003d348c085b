"""Which shapes `proxy` trains: a spread of depths, or what a sampler proposes one after the other.

A sampler names layers, FFN ratio and head within what is legal, and learns from the first rung of
each proposal, a quarter of the proxy's tokens; successive halving then goes on with all of them.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import log
from typing import Any

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.method import Method
from pocketlm.model.shape import Shape
from pocketlm.stages.design.ranked import Ranked, one_per_depth

NUM_PROPOSED = 8
_SPENT = 0.9  # of what the largest shape with such a head spends; as the wishes have it
_RANDOM_FIRST = 4  # of `tpe`; Optuna's own 10 are more than all

Score = Callable[[Shape], float]
Propose = Callable[[Sequence[Ranked], Score, np.random.Generator], list[Shape]]


def depths(order: Sequence[Ranked], score: Score, rng: np.random.Generator) -> list[Shape]:
    """Eight depths, evenly spread, each with the shape `deep-first` likes best."""
    return one_per_depth(order, NUM_PROPOSED)


def tpe(order: Sequence[Ranked], score: Score, rng: np.random.Generator) -> list[Shape]:
    """Eight proposals of Optuna's tree-structured Parzen estimator, four of them at random."""
    optuna, seed = _import_optuna(), int(rng.integers(2**31))
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_FIRST)
    return _propose(order, score, optuna, sampler)


def at_random(order: Sequence[Ranked], score: Score, rng: np.random.Generator) -> list[Shape]:
    """The control of `tpe`: Optuna's random sampler, over the same names."""
    optuna, seed = _import_optuna(), int(rng.integers(2**31))
    return _propose(order, score, optuna, optuna.samplers.RandomSampler(seed=seed))


PROXY_SAMPLERS: dict[str, Method[Propose]] = {
    "depths": Method(depths, paper="ours"),
    "tpe": Method(tpe, paper="Bergstra et al. 2011; Akiba et al. 2019 (Optuna)"),
    "random": Method(at_random, paper="Bergstra and Bengio 2012; Akiba et al. 2019 (Optuna)"),
}


def check_sampler(name: str) -> None:
    """Raise `RecipeError` for a sampler of PROXY_SAMPLERS whose package is not installed."""
    if name != "depths" and find_spec("optuna") is None:
        raise RecipeError(
            f"[design] proxy_sampler = {name!r} needs optuna: pip install 'pocketlm[optuna]'"
        )


def _import_optuna() -> Any:
    check_sampler("tpe")
    import optuna

    return optuna


def _propose(order: Sequence[Ranked], score: Score, optuna: Any, sampler: Any) -> list[Shape]:
    """The first of `order`, then what `sampler` asks for, or the nearest that is legal and new."""
    left = _spenders(order)
    layers = [shape.layers for shape in left]
    ratios = [shape.ffn / shape.hidden for shape in left]
    heads = sorted({shape.tied for shape in left})
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line a trial otherwise
    study = optuna.create_study(sampler=sampler)
    optuna.logging.set_verbosity(before)
    study.enqueue_trial({"layers": layers[0], "ffn_ratio": ratios[0], "tied": left[0].tied})
    proposed: list[Shape] = []
    while left and len(proposed) < NUM_PROPOSED:
        trial = study.ask()
        wanted = (
            trial.suggest_int("layers", min(layers), max(layers), log=True),
            trial.suggest_float("ffn_ratio", min(ratios), max(ratios), log=True),
            trial.suggest_categorical("tied", heads),
        )
        nearest = min(left, key=lambda shape: _distance(shape, wanted))
        left.remove(nearest)
        proposed.append(nearest)
        study.tell(trial, score(nearest))
    return proposed


def _spenders(order: Sequence[Ranked]) -> list[Shape]:
    most = {tied: max((r.params for r in order if r.shape.tied == tied), default=0)
            for tied in (True, False)}  # fmt: skip
    return [r.shape for r in order if r.params >= _SPENT * most[r.shape.tied]]


def _distance(shape: Shape, wanted: tuple[int, float, bool]) -> tuple[bool, float]:
    """Another head is further than any ratio; of equals the ranking's first is taken."""
    layers, ratio, tied = wanted
    apart = abs(log(shape.layers / layers)) + abs(log(shape.ffn / shape.hidden / ratio))
    return shape.tied != tied, apart
