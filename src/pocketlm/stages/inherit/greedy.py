"""Which layers stay, by the loss of the parent without the others (arXiv 2402.09025, 2410.14649).

SLEB drops the layer whose absence costs least, again and again; EvoPress improves a choice by
swapping a kept layer for a dropped one. We do the first, then the second until no swap helps.
"""

from collections.abc import Callable
from functools import cache

from pocketlm.model.loss import block_losses
from pocketlm.model.network import layers_of, pass_through
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.whole import batches, whole_bytes, whole_parent
from pocketlm.units import show_bytes

Kept = tuple[int, ...]


def greedy(evidence: Evidence, num_child: int) -> Kept:
    """Drop the layer whose absence costs least loss, again and again; then swap until none helps.

    Holds the parent in memory. Evaluates at most L^2 / 2 choices and kept x dropped a swap.
    """
    shape, ids_NT1 = evidence.parent.shape, evidence.measured.ids_NT1
    size = whole_bytes(evidence.parent, evidence.kept_V, ids_NT1.shape[1] - 1)
    label = f"greedy, the parent in memory: {show_bytes(size)}"
    with evidence.progress.task(label, None, "choices") as advance:
        loss_of = loss_without(evidence)

        def counted(kept: Kept) -> float:
            advance(1)
            return loss_of(kept)

        return search(shape.layers, num_child, counted)


def loss_without(evidence: Evidence) -> Callable[[Kept], float]:
    """The parent's mean loss on the calibration blocks, nats per token, by the layers it keeps."""
    import torch

    network = whole_parent(evidence.parent, evidence.kept_V).network()
    layers = layers_of(network, evidence.parent.shape.family)
    whole = list(layers)
    rows = batches(evidence.measured.ids_NT1)

    def loss_of(kept: Kept) -> float:
        for number, layer in enumerate(whole):
            layers[number] = layer if number in kept else pass_through()
        with torch.no_grad():
            sums = [block_losses(network, ids_BT1).double().sum().item() for ids_BT1 in rows]
        return sum(sums) / len(evidence.measured.ids_NT1)

    return loss_of


def search(num_parent: int, num_child: int, loss_of: Callable[[Kept], float]) -> Kept:
    """The kept layers, ascending; `loss_of` is asked once for each choice. Ties keep the first."""
    loss = cache(loss_of)
    kept = tuple(range(num_parent))
    while len(kept) > num_child:
        kept = min((_without(kept, layer) for layer in kept), key=loss)
    while True:
        dropped = set(range(num_parent)) - set(kept)
        swaps = [
            tuple(sorted({*_without(kept, layer), other})) for layer in kept for other in dropped
        ]
        best = min(swaps, key=loss, default=kept)
        if loss(best) >= loss(kept):
            return kept
        kept = best


def _without(kept: Kept, layer: int) -> Kept:
    return tuple(other for other in kept if other != layer)
