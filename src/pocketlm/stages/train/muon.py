"""Muon: momentum whose singular values are all made about one, for matrices inside the layers.

    M <- mu M + (1 - mu) G      U = mu M + (1 - mu) G
    W <- (1 - lr wd) W - lr 0.2 sqrt(max(m, n)) NS(U)

NS: five Newton-Schulz steps X <- aX + (bA + cA^2)X, A = X X^T, that drive the singular values of
U / ||U|| towards one (Jordan 2024). The factor gives a step the size of AdamW's (Moonlight, arXiv
2502.16982), so that rate and decay are AdamW's too. torch's own Muon does this matrix by matrix;
here matrices of one shape go through together, and a step can be left out without asking the
device (`found_inf`).
Shapes: L matrices of one shape, m x n.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan 2024
_NUM_STEPS = 5
_MATCH_ADAMW = 0.2  # Moonlight


class Muon(torch.optim.Optimizer):
    """Momentum `mu` 0.95 in Nesterov's form; every parameter must be a matrix."""

    found_inf: torch.Tensor | None = None
    """On the parameters' device: where it is one, `step` changes nothing. As of torch's fused
    AdamW."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], *, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is run
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group)

    def _update(self, matrices: list[torch.Tensor], group: dict[str, Any]) -> None:
        mu, rate = group["momentum"], group["lr"]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        moved = torch._foreach_lerp(momenta, gradients, 1 - mu)
        wanted_Lmn = torch.stack(torch._foreach_lerp(gradients, moved, mu))
        changes = list(orthogonal(wanted_Lmn).to(matrices[0].dtype).unbind())
        size = -rate * _MATCH_ADAMW * math.sqrt(max(matrices[0].shape))
        new = torch._foreach_mul(matrices, 1 - rate * group["weight_decay"])
        torch._foreach_add_(new, changes, alpha=size)
        torch._foreach_copy_(momenta, self._unless_bad(momenta, moved))
        torch._foreach_copy_(matrices, self._unless_bad(matrices, new))

    def _unless_bad(
        self, old: Sequence[torch.Tensor], new: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        if self.found_inf is None:
            return list(new)
        bad = self.found_inf > 0
        return [torch.where(bad, x, y) for x, y in zip(old, new, strict=True)]


def orthogonal(matrices_Lmn: torch.Tensor) -> torch.Tensor:
    """The nearest matrices whose singular values are about one (0.7 to 1.2), bfloat16."""
    x_Lmn: torch.Tensor = matrices_Lmn.bfloat16()
    tall = x_Lmn.shape[1] > x_Lmn.shape[2]
    if tall:
        x_Lmn = x_Lmn.mT
    x_Lmn = x_Lmn / x_Lmn.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_STEPS):
        gram_Lmm = x_Lmn @ x_Lmn.mT
        gram_Lmm = torch.baddbmm(gram_Lmm, gram_Lmm, gram_Lmm, beta=b, alpha=c)
        x_Lmn = torch.baddbmm(x_Lmn, gram_Lmm, x_Lmn, beta=a)
    return x_Lmn.mT if tall else x_Lmn
