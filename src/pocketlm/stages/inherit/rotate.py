"""Narrow the residual stream along its principal directions instead of picking channels.

RMSNorm without its gain commutes with every rotation Q of the stream, so once the gains are folded
into what reads the stream, one Q for the whole model changes nothing, and the child stays a stock
architecture. SliceGPT (arXiv 2401.15024, section 3) has one Q a layer and pays with extra matrices;
one for all is ours. Kept are the k directions that hold most of the normalised stream.
Shapes: D channels of the parent, K of the child, V tokens, O outputs of a matrix.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.model.child import Child
from pocketlm.model.family import load_family, tensors_of
from pocketlm.model.shape import config_with
from pocketlm.stages.inherit.calibration import Array

if TYPE_CHECKING:
    import torch

_ROUNDS = 50  # of alternating least squares; ours: the error stops moving after about ten


def check_rotates(family_name: str) -> None:
    """Raise `RecipeError` for an architecture whose stream cannot be rotated."""
    if not load_family(family_name).rotates:
        raise RecipeError(
            f"[inherit] hidden = 'rotate': {family_name} does not read its stream through "
            "RMSNorms alone; use 'score'"
        )


def principal_basis(moment_DD: Array, num_kept: int) -> "torch.Tensor":
    """The eigenvectors of the largest eigenvalues, largest first, float64, (D, K).

    Signs are fixed (the largest entry of each is positive), so that a basis is data.
    """
    import torch

    _, vectors_DD = np.linalg.eigh(moment_DD)
    basis_DK = vectors_DD[:, ::-1][:, :num_kept]
    largest_K = np.take_along_axis(basis_DK, np.abs(basis_DK).argmax(0)[None], 0)
    return torch.from_numpy(np.ascontiguousarray(basis_DK * np.sign(largest_K)))


def rotate(child: Child, basis_DK: "torch.Tensor") -> Child:
    """`child`, still as wide as its parent, on the K directions of `basis_DK`.

    Gains are folded into the matrices after them, gains become one. A tied table stays tied: see
    `tie`. At K = D an untied child computes what it did, but for rounding.
    """
    import torch

    family = load_family(child.shape.family)
    tensors: dict[str, torch.Tensor] = {}
    gain_D = torch.ones(basis_DK.shape[0], dtype=torch.float64)
    final_D = child.tensors[family.final_norm].double()
    for placed in tensors_of(child.shape):
        row, tensor = placed.row, child.tensors[placed.name].double()
        if row.part == "norms" and row.axes == ("hidden",):
            gain_D, tensor = tensor, torch.ones(basis_DK.shape[1])
        elif row.part == "head":
            tensor = (tensor * final_D) @ basis_DK
        elif row.axes[-1] == "hidden" and row.per_layer and len(row.axes) == 2:
            tensor = (tensor * gain_D) @ basis_DK
        elif row.axes[-1] == "hidden":  # the embedding, and biases of what writes to the stream
            tensor = tensor @ basis_DK
        elif row.axes[0] == "hidden":
            tensor = basis_DK.T @ tensor
        tensors[placed.name] = tensor.float()
    if child.shape.tied:
        table_VD = child.tensors[family.embedding].double()
        table_VK, gain_K = tie(table_VD @ basis_DK, (table_VD * final_D) @ basis_DK)
        tensors |= {family.embedding: table_VK.float(), family.final_norm: gain_K.float()}
    shape = replace(child.shape, hidden=basis_DK.shape[1])
    return Child(config=config_with(child.config, shape), tensors=tensors)


def tie(
    embedding_VK: "torch.Tensor", head_VK: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """One table T and a final gain g with T near the embedding and T diag(g) near the head.

    Alternating least squares on both relative errors together; exact where the two differ by a
    factor per channel, as they do when the parent's final gain is even.
    """
    weight = embedding_VK.square().sum() / head_VK.square().sum()
    table_VK = embedding_VK
    for _ in range(_ROUNDS):
        gain_K = (table_VK * head_VK).sum(0) / table_VK.square().sum(0)
        table_VK = (embedding_VK + weight * gain_K * head_VK) / (1 + weight * gain_K.square())
    return table_VK, (table_VK * head_VK).sum(0) / table_VK.square().sum(0)
