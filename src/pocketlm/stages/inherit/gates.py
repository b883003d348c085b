"""Gates that learn to be zero or one, and the multipliers that hold how many are open.

Hard-concrete gates (Louizos et al., arXiv 1712.01312, section 2.2 and equation 12 for how likely
one is open), held to a target shape by two multipliers for every choice (LLM-Shearing, arXiv
2310.06694, section 2.1): every choice loses lambda_1 g + lambda_2 g^2, g the share of its units
open less the target's, which the gates descend and the multipliers ascend.
"""

from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2 / 3
STRETCH = (-0.1, 1.1)
LIMIT = log(100)  # of log alpha, LLM-Shearing's: nothing is ever quite decided
START = 2.5  # ours: nearly open, and not so far from closing that no draw closes
RAMP = 0.5  # share of the steps in which the target comes down from all units
MULTIPLIER_RATE = 1.0
# Of lambda_2, ours: with none the multipliers still climb when the target is reached, and overshoot
# (docs/3-inherit.md); a gap of a tenth then pulls with 10, near where lambda_1 ends on the demo.
FIRST_SQUARE = 50.0


class AxisGates:
    """The gates of one axis; units compete along the last dimension, `target` of them stay."""

    def __init__(self, dims: tuple[int, ...], target: int) -> None:
        import torch

        self.dims = dims
        self.log_alpha = torch.full(dims, START, requires_grad=True)
        self.share = target / dims[-1]
        self._multipliers = torch.zeros(2, *dims[:-1])
        self._multipliers[1] = FIRST_SQUARE
        self._sum = torch.zeros(dims, dtype=torch.float64)
        self._num_summed = 0

    def draw(self, uniform: "torch.Tensor") -> "torch.Tensor":
        """Gates from 0 to 1, both ends included, by draws from (0, 1): (B, dims)."""
        noise = uniform.log() - (-uniform).log1p()
        soft = ((noise + self.log_alpha) / TEMPERATURE).sigmoid()
        low, high = STRETCH
        gates: torch.Tensor = (soft * (high - low) + low).clamp(0.0, 1.0)
        return gates

    def gap(self, done: float) -> "torch.Tensor":
        """Share of the units open less the target's, when `done` of all steps are: by choice."""
        target = 1 - (1 - self.share) * min(1.0, done / RAMP)
        return open_chance(self.log_alpha).mean(-1) - target

    def penalty(self, gap: "torch.Tensor") -> "torch.Tensor":
        """What the gates pay for that gap, summed over the choices."""
        first, second = self._multipliers
        paid: torch.Tensor = (first * gap + second * gap.square()).sum()
        return paid

    def settle(self, gap: "torch.Tensor", done: float) -> None:
        """After a step: the multipliers ascend, log alpha stays in its limits and is averaged."""
        gap = gap.detach()
        self._multipliers[0] += MULTIPLIER_RATE * gap
        self._multipliers[1] += MULTIPLIER_RATE * gap.square()
        self.log_alpha.data.clamp_(-LIMIT, LIMIT)
        if done >= RAMP:
            self._sum += self.log_alpha.data
            self._num_summed += 1

    def chances(self) -> "torch.Tensor":
        """How likely each unit is open, float64, by its mean log alpha since the target stands.

        The mean, because single steps are noisy and log alphas at their limit are all alike.
        """
        return open_chance(self._sum / max(1, self._num_summed))


def open_chance(log_alpha: "torch.Tensor") -> "torch.Tensor":
    """The probability that a draw is above zero."""
    low, high = STRETCH
    return (log_alpha - TEMPERATURE * log(-low / high)).sigmoid()
