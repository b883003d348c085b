"""Learning from the parent's predictions as well as from the text.

    loss = (1 - w) CE + w T^2 KL(p || q)     p, q: softmax of the parent's, the child's logits / T

(Hinton et al. 2015, arXiv 1503.02531, section 2: T^2 keeps the gradient's size.) The parent reads
the child's own tokens through `kept_V`, and its softmax over the kept columns is its prediction
renormalised, so no text is segmented twice. Where only the K likeliest tokens are used, all others
together are one outcome more: KL of these K + 1 is at most the whole KL.

Shapes: B blocks, T places, V tokens of the vocabulary, K likeliest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from pocketlm.corpus.blocks import IntArray
from pocketlm.distil_table import DistilTable
from pocketlm.model.loss import block_logits, losses_of

_LEAST_MASS = 1e-9  # of all tokens that are not among the K likeliest; rounding can make it less


class Prediction(NamedTuple):
    """What the parent expects at each place, at the recipe's temperature."""

    log_p: torch.Tensor
    """ln p, float32: (B, T, V), or (B, T, K) of the likeliest."""
    ids: torch.Tensor | None
    """Tokens of those K, int64; None where `log_p` has all."""


class Taught(NamedTuple):
    """A micro-batch's prediction and its weight in the loss."""

    prediction: Prediction
    weight: torch.Tensor
    """w, a scalar on the device: it moves at every step, and must not be compiled in."""


Teacher = Callable[[IntArray, torch.Tensor, torch.Tensor | None], Prediction]
"""Blocks by number (B,), their ids (B, T + 1) and places (B, T) or None on the device -> what the
parent expects; it runs, or its stored predictions are read."""


@dataclass(frozen=True)
class Lesson:
    """The parent's part in one step."""

    teacher: Teacher
    weight: float
    block_P: IntArray

    def taught(self, piece: slice, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None) -> Taught:
        """For the micro-batch that `piece` cuts out of the step's blocks."""
        prediction = self.teacher(self.block_P[piece], ids_BT1, place_BT)
        weight = torch.full((), self.weight, device=ids_BT1.device)
        return Taught(prediction, weight)


def distilled_loss(
    network: PreTrainedModel,
    ids_BT1: torch.Tensor,
    place_BT: torch.Tensor | None,
    taught: Taught,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over blocks of the loss above, to call backward on, and each block's cross-entropy (B,)
    without a gradient: the ledger compares texts, not teachers."""
    logits_BTV = block_logits(network, ids_BT1, place_BT)
    losses_B = losses_of(logits_BTV, ids_BT1)
    kl_B = divergence(logits_BTV / temperature, taught.prediction).mean(dim=1)
    total = (1 - taught.weight) * losses_B + taught.weight * temperature**2 * kl_B
    return total.sum(), losses_B.detach()


def divergence(logits_BTV: torch.Tensor, prediction: Prediction) -> torch.Tensor:
    """KL(p || q) at each place, nats, shape (B, T); q is the softmax of these logits."""
    log_p, ids_BTK = prediction
    if ids_BTK is None:
        log_q_BTV = torch.log_softmax(logits_BTV, dim=-1)
        return (log_p.exp() * (log_p - log_q_BTV)).sum(dim=-1)
    log_z_BT1 = torch.logsumexp(logits_BTV, dim=-1, keepdim=True)
    log_q_BTK = logits_BTV.gather(-1, ids_BTK) - log_z_BT1
    rest_BTV = logits_BTV.scatter(-1, ids_BTK, float("-inf"))
    log_q_rest_BT = (torch.logsumexp(rest_BTV, dim=-1, keepdim=True) - log_z_BT1).squeeze(-1)
    p_BTK = log_p.exp()
    p_rest_BT = (1 - p_BTK.sum(dim=-1)).clamp_min(_LEAST_MASS)
    of_rest_BT = p_rest_BT * (p_rest_BT.log() - log_q_rest_BT)
    return (p_BTK * (log_p - log_q_BTK)).sum(dim=-1) + of_rest_BT


def predict(
    network: PreTrainedModel,
    ids_BT1: torch.Tensor,
    place_BT: torch.Tensor | None,
    *,
    temperature: float,
    num_tokens: int,
) -> Prediction:
    """What `network` expects, without a gradient; the `num_tokens` likeliest, or with 0 all."""
    with torch.no_grad():
        logits_BTV = block_logits(network, ids_BT1, place_BT)
        log_p_BTV = torch.log_softmax(logits_BTV / temperature, dim=-1)
        if not 0 < num_tokens < logits_BTV.shape[-1]:
            return Prediction(log_p_BTV, None)
        log_p_BTK, ids_BTK = torch.topk(log_p_BTV, num_tokens, dim=-1)
        return Prediction(log_p_BTK, ids_BTK)


class Lessons:
    """The lesson of each step; the teacher is opened when the first one asks for it."""

    def __init__(
        self, table: DistilTable, open_teacher: Callable[[], Teacher] | None, num_steps: int
    ) -> None:
        self._table, self._open, self._last_step = table, open_teacher, max(1, num_steps - 1)
        self._teacher: Teacher | None = None

    def at(self, step: int, block_P: IntArray) -> Lesson | None:
        """For these blocks; None where the parent has no weight."""
        weight = self._table.distil_weight(step / self._last_step)
        if weight == 0:
            return None
        if self._teacher is None:
            assert self._open is not None  # checked before the first step
            self._teacher = self._open()
        return Lesson(self._teacher, weight, block_P)
