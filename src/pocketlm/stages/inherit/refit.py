"""Output matrices fitted anew after the cut, in closed form, layer after layer.

What a cut takes from a layer's output can partly be had from the inputs that stay: `down_proj` and
`o_proj` are linear, so the best such matrix needs second moments only. Held at once: one layer of
the parent, the child, and both streams on the calibration blocks.
Shapes: B of N blocks, T tokens; D channels of the parent, K of the child.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.method import Method
from pocketlm.model.child import Child
from pocketlm.model.family import TensorRow, load_family
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.forward import BATCH_BLOCKS, embed
from pocketlm.stages.inherit.hidden import Cut
from pocketlm.stages.inherit.one_layer import OneLayer, Seen, watched_rows
from pocketlm.stages.inherit.ridge import Ridge

if TYPE_CHECKING:
    import torch


Refit = Callable[[Evidence, Cut], Child]


def as_cut(evidence: Evidence, made: Cut) -> Child:
    """Weights as they were cut."""
    return made.child


def refit_output(evidence: Evidence, made: Cut) -> Child:
    """Each output matrix gives what the parent's gave, from the inputs that stay.

    Inputs and outputs are those of the parent on its own stream, so a layer knows nothing of what
    was cut before it. A copy of the layer before it stays as it is.
    """
    made = replace(made, child=made.child.held())
    tensors = dict(made.child.tensors)
    rows = _writers(evidence.parent.shape.family)
    theirs = parent_walker(evidence)
    with evidence.progress.task("refit", max(made.kept_L) + 1, "layers") as advance:
        for layer in range(max(made.kept_L) + 1):
            places = [
                p for p, kept in enumerate(made.kept_L) if kept == layer and not made.is_copy(p)
            ]
            fits = {(row, place): _ridge(made, row) for row in rows for place in places}
            for batch, after_BTD, seen in theirs.look(layer):
                for (row, place), fit in fits.items():
                    into_BTW, lacks_BTK = _output_pair(made, row, place, seen)
                    fit.add(batch.start, into_BTW, lacks_BTK)
                theirs.stream_NTD[batch] = after_BTD
            for (row, place), fit in fits.items():
                _change(tensors, row.name.format(layer=place), fit)
            advance(1)
    return replace(made.child, tensors=tensors)


def refit_stream(evidence: Evidence, made: Cut) -> Child:
    """Each output matrix brings the child's own stream as near to the parent's as it can.

    Inputs are the child's, behind the layers already fitted; the goal is the parent's stream after
    the same sublayer, and after a layer that of the next kept layer's input. So a layer also makes
    up for what was cut before it and for the layers dropped behind it. A copy of the layer before
    it stays as it is. Raises `RecipeError` for architectures that do not simply add each sublayer's
    output to the stream, and for layers out of order.
    """
    import torch

    family = load_family(evidence.parent.shape.family)
    _check_stream(evidence.parent.shape.family, made.kept_L)
    made = replace(made, child=made.child.held())
    tensors, ids_NT = dict(made.child.tensors), evidence.measured.ids_NT1[:, :-1]
    start_NTK = tensors[family.embedding][torch.from_numpy(ids_NT)]
    ours = Walker(start_NTK, OneLayer(made.child.config, tensors.__getitem__))
    theirs = parent_walker(evidence)
    for dropped in range(made.kept_L[0]):
        theirs.step(dropped)
    with evidence.progress.task("refit", len(made.kept_L), "layers") as advance:
        for place, layer in enumerate(made.kept_L):
            if not made.is_copy(place):
                goals = _goals(theirs, layer, made, evidence.parent.shape.layers)
                _fit_layer(ours, place, goals, made, tensors)
            ours.step(place)
            advance(1)
    return replace(made.child, tensors=tensors)


def _fit_layer(
    ours: "Walker",
    place: int,
    goals: "dict[str, torch.Tensor]",
    made: Cut,
    tensors: "dict[str, torch.Tensor]",
) -> None:
    """Fit the writers of one layer, each behind the one before it, in place."""
    for row in _writers(made.child.shape.family):
        fit = _ridge(made, row)
        for batch, _, seen in ours.look(place):
            into_BTW, out_BTK = seen[row.name]
            lacks_BTK = goals[row.name][batch] - _before(row, made, seen) - out_BTK
            fit.add(batch.start, into_BTW, lacks_BTK)
        _change(tensors, row.name.format(layer=place), fit)


REFITS: dict[str, Method[Refit]] = {
    "none": Method(as_cut, paper="arXiv 2402.02791"),
    "output": Method(refit_output, paper="RCPU, arXiv 2510.07782; ridge towards the cut ours"),
    "stream": Method(refit_stream, paper="ours: docs/3-inherit.md"),
}


class Walker:
    """A stream on all blocks, on its way through a model."""

    def __init__(self, stream_NTD: "torch.Tensor", one_layer: OneLayer) -> None:
        self.stream_NTD = stream_NTD
        self._one_layer = one_layer

    def look(self, layer: int) -> "Iterator[tuple[slice, torch.Tensor, Seen]]":
        """Each batch of blocks through `layer`: where it is, what comes out, what was seen."""
        self._one_layer.load(layer)
        for start in range(0, len(self.stream_NTD), BATCH_BLOCKS):
            batch = slice(start, start + BATCH_BLOCKS)
            yield (batch, *self._one_layer.run(self.stream_NTD[batch]))

    def step(self, layer: int) -> None:
        """Move the stream behind `layer`."""
        for batch, after_BTD, _ in self.look(layer):
            self.stream_NTD[batch] = after_BTD


def parent_walker(evidence: Evidence) -> Walker:
    parent, ids_NT = evidence.parent, evidence.measured.ids_NT1[:, :-1]
    return Walker(
        embed(parent, evidence.kept_V[ids_NT]), OneLayer(parent.config, parent.read_finite)
    )


def _goals(theirs: Walker, layer: int, made: Cut, num_parent: int) -> "dict[str, torch.Tensor]":
    """The parent's stream after each writer of `layer`, in the child's basis, (N, T, K) each; after
    the last one, in front of the next kept layer, to where the parent's stream is moved."""
    import torch

    basis_DK = made.basis_DK.float()
    goals: dict[str, list[torch.Tensor]] = {}
    for batch, after_BTD, seen in theirs.look(layer):
        stream_BTD = after_BTD
        for row in reversed(watched_rows(made.child.shape.family)):
            if row.writes_residual:
                goals.setdefault(row.name, []).append(stream_BTD @ basis_DK)
            else:
                stream_BTD = seen[row.name][0]
        theirs.stream_NTD[batch] = after_BTD
    later = (kept for kept in made.kept_L if kept > layer)
    for dropped in range(layer + 1, next(later, num_parent)):
        theirs.step(dropped)
    last = _writers(made.child.shape.family)[-1].name
    goals[last] = [theirs.stream_NTD @ basis_DK]
    return {name: torch.cat(parts) for name, parts in goals.items()}


def _before(writer: TensorRow, made: Cut, seen: Seen) -> "torch.Tensor":
    """The stream that `writer` adds to: what the norm listed before it read."""
    norms = []
    for row in watched_rows(made.child.shape.family):
        if row.name == writer.name:
            break
        if not row.writes_residual:
            norms.append(row.name)
    return seen[norms[-1]][0]


def _output_pair(
    made: Cut, row: TensorRow, place: int, seen: Seen
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Of a parent's matrix: the inputs that stay, and what the cut one lacks of the output."""
    import torch

    into_BTW, out_BTD = seen[row.name]
    if row.axes[1] == "heads":
        size = made.child.shape.head_dim
        kept_W = (made.units.heads[place][:, None] * size + np.arange(size)).reshape(-1)
    else:
        kept_W = made.units.ffn[place]
    into_BTW = into_BTW[..., torch.from_numpy(kept_W)]
    name = row.name.format(layer=place)
    bias_K = made.child.tensors.get(name.removesuffix("weight") + "bias")
    given_BTK = torch.nn.functional.linear(into_BTW, made.child.tensors[name], bias_K)
    return into_BTW, out_BTD @ made.basis_DK.float() - given_BTK


def _writers(family: str) -> list[TensorRow]:
    return [row for row in watched_rows(family) if row.writes_residual]


def _ridge(made: Cut, row: TensorRow) -> Ridge:
    num_outputs, num_inputs = made.child.tensors[row.name.format(layer=0)].shape
    return Ridge(num_inputs, num_outputs)


def _change(tensors: "dict[str, torch.Tensor]", name: str, fit: Ridge) -> None:
    tensors[name] = (tensors[name].double() + fit.change()).float()


def _check_stream(family: str, kept_L: tuple[int, ...]) -> None:
    if not load_family(family).rotates:
        raise RecipeError(
            f"[inherit] refit = 'stream': {family} does not add each sublayer, read through an "
            "RMSNorm, to one stream; use 'output'"
        )
    if any(later < layer for layer, later in pairwise(kept_L)):
        raise RecipeError(
            f"[inherit] refit = 'stream': layers {list(kept_L)} are not in the parent's order"
        )
