"""What a ranker gets and gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.model.cost import count_params
from pocketlm.model.shape import Shape
from pocketlm.stages.design.budget import Budget
from pocketlm.stages.design.timed import TRANSFORMERS, Runtime, Timing

SHORT_LIST = 12


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A shape of the short-list and why it stands where it does."""

    shape: Shape
    params: int
    value: float
    """What it was ranked by, in `unit`; for wishes, parameters."""
    unit: str
    why: str
    """What it lost to the first by; empty for the first."""
    timing: Timing | None = None
    """What it did here, where it was timed."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a ranker may use beside the shapes; what other stages do comes as a function."""

    budget: Budget
    rng: np.random.Generator
    runtime: Runtime = TRANSFORMERS
    """What `measured` times in."""
    train: Callable[[Shape, float, int], float] | None = None
    """(shape, share of the proxy's tokens, seed) -> bits per byte."""
    proxy_sampler: str = "depths"
    """A name of PROXY_SAMPLERS: which shapes `proxy` trains."""
    predict_loss: Callable[[int], float] | None = None
    """Parameters -> loss at the recipe's tokens, by a fitted law."""


def ranked(shape: Shape, value: float, unit: str, why: str) -> Ranked:
    """A `Ranked` with its parameters counted."""
    return Ranked(shape=shape, params=count_params(shape), value=value, unit=unit, why=why)


def one_per_depth(order: Sequence[Ranked], most: int) -> list[Shape]:
    """The first shape of each number of layers, at most `most`, spread evenly over the depths."""
    first: dict[int, Shape] = {}
    for each in order:
        first.setdefault(each.shape.layers, each.shape)
    shapes = [first[layers] for layers in sorted(first)]
    if len(shapes) <= most:
        return shapes
    return [shapes[i] for i in np.linspace(0, len(shapes) - 1, most).round().astype(int)]
