"""Least squares for one matrix, from running sums, with the ridge chosen on blocks of its own.

W' = W + R Z^T (Z Z^T + s m I)^-1 for the matrix W, its inputs Z over all tokens, what its output
lacks R = goal - W Z, strength s and m the mean of Z Z^T's diagonal. The ridge pulls towards W, so
no strength fits worse than W does. Plain least squares overfits small calibration sets (RCPU, arXiv
2510.07782), hence every second block chooses s and only the others fit.
Shapes: B blocks from number `start` on, T tokens; W inputs and K outputs of the matrix.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Ridge:
    """Sums over tokens, float64, of the even blocks and of the odd ones."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        import torch

        self._gram_2WW = torch.zeros(2, num_inputs, num_inputs, dtype=torch.float64)
        self._cross_2KW = torch.zeros(2, num_outputs, num_inputs, dtype=torch.float64)

    def add(self, start: int, into_BTW: "torch.Tensor", lacks_BTK: "torch.Tensor") -> None:
        """One batch of blocks, the first of them being number `start`."""
        for half in (0, 1):
            rows = slice((start + half) % 2, None, 2)
            into_NW = into_BTW[rows].flatten(0, 1).double()
            lacks_NK = lacks_BTK[rows].flatten(0, 1).double()
            self._gram_2WW[half] += into_NW.T @ into_NW
            self._cross_2KW[half] += lacks_NK.T @ into_NW

    def change(self) -> "torch.Tensor":
        """What to add to the matrix, float64, (K, W): zero where every strength makes the odd
        blocks worse, else the best strength's solution on all blocks."""
        import torch

        errors = [self.error(self.solution(strength, (0,)), 1) for strength in STRENGTHS]
        best = min(range(len(errors)), key=errors.__getitem__)
        if errors[best] >= 0:
            return torch.zeros_like(self._cross_2KW[0])
        return self.solution(STRENGTHS[best], (0, 1))

    def solution(self, strength: float, halves: tuple[int, ...]) -> "torch.Tensor":
        """The change of least ridge error on those halves (0: even blocks, 1: odd), (K, W)."""
        import torch

        gram_WW = sum(self._gram_2WW[half] for half in halves)
        cross_KW = sum(self._cross_2KW[half] for half in halves)
        assert isinstance(gram_WW, torch.Tensor)
        assert isinstance(cross_KW, torch.Tensor)
        floor = strength * gram_WW.diagonal().mean()
        if floor <= 0:  # no input was ever other than zero
            return torch.zeros_like(cross_KW)
        solvable_WW = gram_WW + floor * torch.eye(len(gram_WW), dtype=torch.float64)
        solved_WK: torch.Tensor = torch.linalg.solve(solvable_WW, cross_KW.T)
        return solved_WK.T

    def error(self, change_KW: "torch.Tensor", half: int) -> float:
        """Squared error on one half less that of no change; below zero is better."""
        moved_KW = change_KW @ self._gram_2WW[half] - 2 * self._cross_2KW[half]
        return float((change_KW * moved_KW).sum())
