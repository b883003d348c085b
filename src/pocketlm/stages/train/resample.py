"""Choose what the child reads again: hard blocks more often than easy ones.

Paper, multiple-round training:   p_i = exp(l_i) / sum_j exp(l_j)
       l_i: mean loss of block i under the frozen child, nats per token.
Shapes: N blocks scored, K blocks drawn.
"""

from typing import Any

import numpy as np

from pocketlm.method import Method

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]


def softmax_loss(loss_N: FloatArray, *, num_drawn: int, rng: np.random.Generator) -> IntArray:
    """Draw from softmax(loss) without replacement; distinct indices, ascending.

    Adding Gumbel noise and keeping the largest K is that draw (Kool et al. 2019): no normaliser,
    no overflow, and no limit of 2^24 as in `torch.multinomial`. Ascending, so disks are read
    forwards. Raises `ValueError` unless 1 <= num_drawn <= N.
    """
    if not 1 <= num_drawn <= loss_N.size:
        raise ValueError(f"num_drawn = {num_drawn}, but {loss_N.size} blocks were scored")
    noisy_N = loss_N + rng.gumbel(size=loss_N.size)
    drawn_K = np.argpartition(noisy_N, -num_drawn)[-num_drawn:]
    return np.sort(drawn_K).astype(np.int64)


def uniform(loss_N: FloatArray, *, num_drawn: int, rng: np.random.Generator) -> IntArray:
    """The control: every block equally likely, whatever its loss."""
    return softmax_loss(np.zeros_like(loss_N), num_drawn=num_drawn, rng=rng)


def effective_size(loss_N: FloatArray) -> float:
    """1 / sum p^2 for p = softmax(loss): how many blocks the distribution really tells apart."""
    weight_N = np.exp(loss_N - loss_N.max())
    return float(weight_N.sum() ** 2 / np.square(weight_N).sum())


RESAMPLERS = {
    "softmax-loss": Method(softmax_loss, paper="arXiv 2402.02791, multiple-round training"),
    "uniform": Method(uniform, paper="its control, ours"),
}

# These draw without looking at the losses, so no block is scored for them.
WITHOUT_LOSSES = frozenset({"uniform"})
