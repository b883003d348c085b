"""Learned masks: which units and layers the parent misses least, all cut at once and by its loss.

LLM-Shearing (arXiv 2310.06694, section 2.1): hard-concrete gates on every axis that becomes
smaller are trained on the calibration blocks against the parent's own cross-entropy, while a target
comes down to the child's shape; then the units most likely open stay, exactly as many as it has.
Every block has a draw of its own (ours), which costs nothing and makes gradients less noisy.
Shapes: B blocks of T tokens; L masked layers, F neurons, H heads, K K/V heads, D channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.child import Child
from pocketlm.model.family import tensors_of
from pocketlm.model.loss import block_losses
from pocketlm.model.shape import Shape
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit.calibration import Array, Calibration, Indices
from pocketlm.stages.inherit.evidence import Evidence, learns_masks
from pocketlm.stages.inherit.gates import AxisGates
from pocketlm.stages.inherit.layers import choose_layers
from pocketlm.stages.inherit.masked import Gates, MaskedNetwork
from pocketlm.stages.inherit.whole import BATCH_BLOCKS, whole_bytes, whole_parent
from pocketlm.units import show_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BETAS = (0.5, 0.95)  # ours: short memories, or log alphas go on where the multipliers turned
WEIGHT_RATE = 1e-4  # LLM-Shearing's, beside masks that learn
_EAGER_TOKENS = 512
_EDGE = 1e-6  # the logarithm of a draw stays finite
_TARGET = ("layers", "hidden", "heads", "kv_heads", "ffn")


def learn_masks(evidence: Evidence, shape: Shape, table: InheritTable) -> Calibration:
    """`evidence.calibration` with the masks of a child of `shape`, as the methods of `table` need.

    Statistics `layers.mask` (layers), `ffn.mask` (layers, F), `heads.mask` (layers, H),
    `hidden.mask` (D): how likely each is open, over the whole parent, one where nothing is masked
    and zero in layers that left before. `mask.target`: the shape they were learned for. With
    `mask_weights = "trained"` also the parent as it was trained under them. Holds the parent in
    memory. Raises `RecipeError` where the layer pick does.
    """
    if not learns_masks(table):
        return evidence.measured
    if table.layers == "mask":
        kept_L = tuple(range(evidence.parent.shape.layers))
    else:
        kept_L = tuple(dict.fromkeys(choose_layers(table.layers, evidence, shape.layers)))
    axes = axes_of(evidence.parent.shape, shape, kept_L, table)
    trained = None
    if axes:
        trained = train_gates(evidence, kept_L, axes, table)
    chances = {kind: gates.chances().numpy() for kind, gates in axes.items()}
    found = _over_parent(evidence.parent.shape, kept_L, chances)
    found["mask.target"] = target_of(shape)
    statistics = {**evidence.measured.statistics, **found}
    return replace(evidence.measured, statistics=statistics, trained=trained)


def target_of(shape: Shape) -> Array:
    """What masks are learned for: layers, hidden, heads, kv_heads, ffn."""
    return np.array([getattr(shape, name) for name in _TARGET])


def axes_of(
    parent: Shape, shape: Shape, kept_L: tuple[int, ...], table: InheritTable
) -> dict[str, AxisGates]:
    """Gates for every axis that becomes smaller and is left to masks.

    Every layer chooses its neurons and K/V heads, every K/V group its query heads, so that each
    choice alone has a target; channels and layers are one choice each.
    """
    num, group = len(kept_L), parent.heads // parent.kv_heads
    axes: dict[str, tuple[tuple[int, ...], int]] = {}
    if table.neurons == "mask":
        axes["ffn"] = (num, parent.ffn), shape.ffn
        axes["heads"] = (num, parent.kv_heads, group), shape.heads // shape.kv_heads
        axes["kv_heads"] = (num, parent.kv_heads), shape.kv_heads
        if table.hidden == "score":
            axes["hidden"] = (parent.hidden,), shape.hidden
    if table.layers == "mask":
        axes["layers"] = (num,), shape.layers
    return {k: AxisGates(dims, size) for k, (dims, size) in axes.items() if size < dims[-1]}


def train_gates(
    evidence: Evidence, kept_L: tuple[int, ...], axes: Mapping[str, AxisGates], table: InheritTable
) -> Child | None:
    """Learn `axes` in place; the trained parent where its weights are trained too."""
    import torch

    ids_NT1, kept_V = evidence.measured.ids_NT1, evidence.kept_V
    seq_len, trains = ids_NT1.shape[1] - 1, table.mask_weights == "trained"
    size = whole_bytes(evidence.parent, kept_V, seq_len, copies=4 if trains else 2)
    whole = whole_parent(evidence.parent, kept_V, kept_L)
    # On CPU plain matmuls beat the fused kernel at short lengths, where there is a gradient.
    network = whole.network(attention="eager" if seq_len <= _EAGER_TOKENS else "sdpa")
    masked = MaskedNetwork(network.requires_grad_(trains), whole.shape)
    log_alphas = [gates.log_alpha for gates in axes.values()]
    optimizer = torch.optim.Adam(log_alphas, lr=table.mask_rate, betas=BETAS)
    if trains:
        optimizer.add_param_group(
            {"params": list(network.parameters()), "lr": WEIGHT_RATE, "betas": (0.9, 0.95)}
        )
    batches = _batches(evidence.rng, ids_NT1)
    label = f"mask, the parent in memory: {show_bytes(size)}"
    with evidence.progress.task(label, table.mask_steps, "steps") as advance:
        for step in range(1, table.mask_steps + 1):
            gates = {kind: draw(axis.dims, evidence.rng) for kind, axis in axes.items()}
            loss = _step(masked, axes, gates, next(batches), step / table.mask_steps, optimizer)
            advance(1, f"loss {loss:.3f}")
    return _renamed(whole, network, kept_L, evidence) if trains else None


def _step(
    masked: MaskedNetwork,
    axes: Mapping[str, AxisGates],
    uniform: Gates,
    ids_BT1: "torch.Tensor",
    done: float,
    optimizer: "torch.optim.Optimizer",
) -> float:
    """One update of gates, multipliers and, if they train, weights; the loss under the gates."""
    import torch

    masked.gates = {
        kind: axis.draw(uniform[kind]).flatten(2) if kind == "heads" else axis.draw(uniform[kind])
        for kind, axis in axes.items()
    }
    loss = block_losses(masked.network, ids_BT1).mean()
    gaps = {kind: axis.gap(done) for kind, axis in axes.items()}
    held = torch.stack([axis.penalty(gaps[kind]) for kind, axis in axes.items()]).sum()
    optimizer.zero_grad()
    torch.autograd.backward(loss + held)
    optimizer.step()
    for kind, axis in axes.items():
        axis.settle(gaps[kind], done)
    return float(loss.detach())


def draw(dims: tuple[int, ...], rng: np.random.Generator) -> "torch.Tensor":
    """Uniform draws from (0, 1), one for each gate of each block of a batch."""
    import torch

    uniform = rng.random((BATCH_BLOCKS, *dims)).clip(_EDGE, 1 - _EDGE)
    return torch.from_numpy(uniform).float()


def _batches(rng: np.random.Generator, ids_NT1: Indices) -> "Iterator[torch.Tensor]":
    """Blocks in one random order after another, for ever."""
    import torch

    waiting: list[int] = []
    while True:
        while len(waiting) < BATCH_BLOCKS:
            waiting.extend(rng.permutation(len(ids_NT1)).tolist())
        batch, waiting = waiting[:BATCH_BLOCKS], waiting[BATCH_BLOCKS:]
        yield torch.from_numpy(ids_NT1[batch])


def _over_parent(
    shape: Shape, kept_L: tuple[int, ...], chances: Mapping[str, Array]
) -> dict[str, Array]:
    """The statistics of `learn_masks`, from the chances of what was masked in layers `kept_L`."""
    layers, num = list(kept_L), len(kept_L)
    heads_LKG = np.ones((num, shape.kv_heads, shape.heads // shape.kv_heads))
    heads_LKG *= chances.get("heads", 1.0)
    # A head is heard if it is open and its group is, which are drawn independently.
    heads_LKG *= chances.get("kv_heads", np.ones((num, shape.kv_heads)))[:, :, None]
    found = {
        "layers.mask": np.zeros(shape.layers),
        "ffn.mask": np.zeros((shape.layers, shape.ffn)),
        "heads.mask": np.zeros((shape.layers, shape.heads)),
        "hidden.mask": chances.get("hidden", np.ones(shape.hidden)),
    }
    found["layers.mask"][layers] = chances.get("layers", 1.0)
    found["ffn.mask"][layers] = chances.get("ffn", 1.0)
    found["heads.mask"][layers] = heads_LKG.reshape(num, -1)
    return found


def _renamed(
    whole: Child, network: "PreTrainedModel", kept_L: tuple[int, ...], evidence: Evidence
) -> Child:
    """The parent over the kept tokens, with trained weights where `network` has them."""
    every = whole_parent(evidence.parent, evidence.kept_V)
    weights, tensors = network.state_dict(), dict(every.tensors)
    for placed in tensors_of(whole.shape):
        layer = None if placed.layer is None else kept_L[placed.layer]
        tensors[placed.row.name.format(layer=layer)] = weights[placed.name].detach().clone()
    return replace(every, tensors=tensors)
