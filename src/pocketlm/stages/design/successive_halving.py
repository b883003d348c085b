"""Train the short-list a little, drop the worse half, train the rest longer.

Jamieson and Talwalkar 2016, with a margin: whoever is within the noise of the last one kept is kept
too, because the spread over seeds cannot tell the two apart.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pocketlm.model.shape import Shape
from pocketlm.stages.design.ranked import Ranked, ranked

_SHARES = (0.25, 0.5, 1.0)
_SEEDS = (0, 1)
PROXY_PASSES = 12  # over the whole proxy text: two seeds of 8 quarters, 4 halves, 2 whole ones
_MARGIN = 2.0  # standard errors of a difference of two means

Train = Callable[[Shape, float, int], float]


def successive_halving(shapes: Sequence[Shape], train: Train) -> list[Ranked]:
    """Best first; those that left early stand behind those that left later."""
    alive, out = list(shapes), list[list[Ranked]]()
    for rung, share in enumerate(_SHARES):
        results_SN = np.array([[train(shape, share, seed) for seed in _SEEDS] for shape in alive])
        means_S, noise = results_SN.mean(1), noise_of(results_SN)
        order = np.argsort(means_S, kind="stable")
        last_rung = rung == len(_SHARES) - 1
        kept = len(alive) if last_rung else promoted(means_S[order], noise)
        unit = f"bits/byte after {share:.0%} of the proxy"
        said = [
            ranked(alive[i], float(means_S[i]), unit,
                   _why(float(means_S[i] - means_S[order[0]]), noise))
            for i in order
        ]  # fmt: skip
        out.append(said if last_rung else said[kept:])
        alive = [alive[i] for i in order[:kept]]
    return [each for rung_list in reversed(out) for each in rung_list]


def first_score(shape: Shape, train: Train) -> float:
    """What the first rung says of a shape: the mean over its seeds."""
    return float(np.mean([train(shape, _SHARES[0], seed) for seed in _SEEDS]))


def promoted(means_S: "np.ndarray", noise: float) -> int:
    """How many of the ascending means go on: half, and all within `noise` of the last of those."""
    half = (len(means_S) + 1) // 2
    return int((means_S <= means_S[half - 1] + noise).sum())


def noise_of(results_SN: "np.ndarray") -> float:
    """Two standard errors of a difference of two means, the spread pooled over shapes."""
    num_seeds = results_SN.shape[1]
    pooled = float(np.sqrt(results_SN.var(1, ddof=1).mean()))
    return _MARGIN * pooled * float(np.sqrt(2 / num_seeds))


def _why(behind: float, noise: float) -> str:
    if behind == 0:
        return ""
    within = ", within the noise" if behind <= noise else ""
    return f"{behind:.3f} bits/byte behind{within}"
