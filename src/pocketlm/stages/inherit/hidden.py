"""How the residual stream becomes narrower, and with it everything that reads or writes it.

Shapes: D channels of the parent, K of the child.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.method import Method
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit.cut import cut
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.neurons import Units
from pocketlm.stages.inherit.rotate import check_rotates, principal_basis, rotate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A child as it was cut, and which part of the parent each part of it is."""

    child: Child
    kept_L: tuple[int, ...]
    units: Units
    basis_DK: "torch.Tensor"
    """The parent's stream times this is the child's, float64: kept channels or directions."""

    def is_copy(self, place: int) -> bool:
        """Whether the child's layer `place` is the same parent layer as the one before it."""
        return place > 0 and self.kept_L[place] == self.kept_L[place - 1]


HiddenCut = Callable[[Evidence, Shape, tuple[int, ...], Units], Cut]


def keep_channels(evidence: Evidence, shape: Shape, kept_L: tuple[int, ...], units: Units) -> Cut:
    """Keep the channels that the neuron score ranks highest."""
    import torch

    parent, kept_V = evidence.source
    child = cut(parent, shape, kept_L, kept_V, units)
    every_DD = torch.eye(evidence.parent.shape.hidden, dtype=torch.float64)
    basis_DK = every_DD[:, torch.from_numpy(units.hidden)]
    return Cut(child=child, kept_L=kept_L, units=units, basis_DK=basis_DK)


def keep_directions(evidence: Evidence, shape: Shape, kept_L: tuple[int, ...], units: Units) -> Cut:
    """Keep the principal directions of the normalised stream: one rotation for the whole model.

    The child is cut at the parent's width first. At that width there is nothing to rotate for.
    Raises `RecipeError` for architectures that cannot be rotated.
    """
    num_channels = evidence.parent.shape.hidden
    check_rotates(shape.family)
    if shape.hidden == num_channels:
        return keep_channels(evidence, shape, kept_L, units)
    every = replace(units, hidden=np.arange(num_channels))
    parent, kept_V = evidence.source
    wide = cut(parent, replace(shape, hidden=num_channels), kept_L, kept_V, every)
    basis_DK = principal_basis(evidence.statistic("moment"), shape.hidden)
    return Cut(child=rotate(wide, basis_DK), kept_L=kept_L, units=units, basis_DK=basis_DK)


HIDDEN_CUTS: dict[str, Method[HiddenCut]] = {
    "score": Method(keep_channels, paper="arXiv 2402.02791, intra-layer"),
    "rotate": Method(keep_directions, paper="SliceGPT, arXiv 2401.15024; one rotation ours"),
}
