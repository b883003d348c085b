"""Choose what the child reads again: hard blocks more often than easy ones.

Paper, multiple-round training:   p_i = exp(l_i) / sum_j exp(l_j)
       l_i: mean loss of batch i under the frozen child, nats per token.
A resampler says what stands for l_i; drawing by it is one function for all (`draw.py`).
Shapes: N blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.corpus.blocks import Blocks, IntArray
from pocketlm.errors import RecipeError
from pocketlm.method import Method
from pocketlm.recipe import TrainTable

if TYPE_CHECKING:
    from pocketlm.stages.train.distil import Teacher

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Losses = Callable[[], FloatArray]
BlockLosses = Callable[[IntArray], FloatArray]
"""Numbers of training blocks -> loss of each, nats per token, shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class References:
    """What training may compare with, beside the child and its blocks."""

    parent_losses: Callable[[], BlockLosses] | None = None
    """Opens the parent, to ask for its losses, per token of the child; called once a draw."""
    held_out: Blocks | None = None
    """Blocks of text nobody trains on: they show what a loss of an earlier step is worth now."""
    teacher: "Callable[[], Teacher] | None" = None
    """Opens the parent, or what is stored of it, to learn from (`distil`)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a resampler may ask for; an answer can cost a pass over all blocks. Nats, shape (N,)."""

    now: Losses
    """The child's loss on each block: a frozen pass, or recorded and carried to the present."""
    when_trained: Losses
    """The loss each block was last trained with, carried to the present."""
    parent: Losses
    """The parent's loss on each block."""


def softmax_loss(evidence: Evidence) -> FloatArray:
    """The child's loss, as the paper has it."""
    return evidence.now()


def uniform(evidence: Evidence) -> None:
    """The control: every block equally likely, whatever its loss."""


def excess_loss(evidence: Evidence) -> FloatArray:
    """The child's loss above its parent's: what can be learned, not what nobody can know."""
    return evidence.now() - evidence.parent()


def forgetting(evidence: Evidence) -> FloatArray:
    """How much more the loss rose since the block was trained than that of text never trained."""
    return evidence.now() - evidence.when_trained()


RESAMPLERS: dict[str, Method[Callable[[Evidence], FloatArray | None]]] = {
    "softmax-loss": Method(softmax_loss, paper="arXiv 2402.02791, multiple-round training"),
    "uniform": Method(uniform, paper="its control, ours"),
    "excess-loss": Method(excess_loss, paper="after Rho-1, arXiv 2404.07965, by block; ours"),
    "forgetting": Method(forgetting, paper="ours, from what arXiv 2402.02791 observes"),
}

DRAW = 2
"""Part of the key of a run that draws: raised where the same losses come to be drawn otherwise, so
that runs of one round stay what they were."""

_WITHOUT_LOSSES = frozenset({"uniform"})
_WITH_PARENT = frozenset({"excess-loss"})


def scores_blocks(table: TrainTable) -> bool:
    """Whether the child scores every block before a later round: a third of a pass each time."""
    looks = table.resample not in _WITHOUT_LOSSES and table.losses == "frozen"
    return looks and draws(table)


def parent_passes(table: TrainTable) -> float:
    """How often the parent reads the first round's blocks while the child trains beside it."""
    later = max(0, table.rounds - 1)
    passes = float(later) if table.resample in _WITH_PARENT and draws(table) else 0.0
    if table.distils and table.distil_from == "parent":
        passes += min(1, table.rounds) + later * table.keep_fraction
    return passes


def carries_losses(table: TrainTable) -> bool:
    """Whether losses of earlier steps are compared with later ones, so that the trend matters."""
    recorded = table.losses == "recorded" and table.resample not in _WITHOUT_LOSSES
    return draws(table) and (recorded or table.resample == "forgetting")


def watches(table: TrainTable) -> bool:
    """Whether fixed sets of blocks are scored while the child learns."""
    return table.probe_parts > 0 or carries_losses(table)


def draws(table: TrainTable) -> bool:
    """Whether any round reads a part of the blocks."""
    return table.rounds > 1 and table.keep_fraction < 1


def check_parent_losses(table: TrainTable, *, has_parent: bool) -> None:
    """Raise `RecipeError` where something compares with a parent that is not there."""
    if table.distils and not has_parent:
        raise RecipeError(
            f"[train] distil = {table.distil:g} learns from a parent and there is none; give "
            "parent, or 0"
        )
    if table.resample in _WITH_PARENT and not has_parent and draws(table):
        raise RecipeError(
            f"[train] resample = {table.resample!r} compares with a parent and there is none; "
            "give parent, or take softmax-loss"
        )
