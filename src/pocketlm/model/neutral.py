"""A Llama child as a PanGu-π that computes the same, ready to train (model.pangu_pi says how)."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pocketlm.errors import ParentError
from pocketlm.model.child import Child
from pocketlm.model.family import load_family, tensors_of
from pocketlm.model.shape import check_shape, config_with

if TYPE_CHECKING:
    import torch

_STD = 0.02  # as every matrix without a parent, see model.start


def from_llama(
    child: Child,
    *,
    num_activations: int = 2,
    shortcut_width: int | None = None,
    rng: "torch.Generator",
) -> Child:
    """`child` with the modules of PanGu-π added where they change nothing: the same logits.

    `shortcut_width`: None for hidden // 32 (the paper's), at least 1; 0 for no shortcut. Its first
    matrix is drawn, N(0, 0.02^2); the child's own tensors are shared, not copied. Raises
    `ParentError` for a child that is not a Llama without biases and with SiLU, `RecipeError` for
    sizes out of range.
    """
    import torch

    _check_llama(child)
    if shortcut_width is None:
        shortcut_width = max(1, child.shape.hidden // 32)
    shape = replace(child.shape, family="pangu_pi", series=num_activations, shortcut=shortcut_width)
    check_shape(shape)
    tensors: dict[str, torch.Tensor] = {}
    for placed in tensors_of(shape):
        if placed.name in child.tensors:
            tensors[placed.name] = child.tensors[placed.name]
        elif placed.row.neutral is not None:
            tensors[placed.name] = torch.full(placed.dims, placed.row.neutral)
        else:
            tensors[placed.name] = torch.empty(placed.dims).normal_(0.0, _STD, generator=rng)
    config = {**child.config, "model_type": "pangu_pi"}
    config["architectures"] = [load_family("pangu_pi").architecture]
    return Child(config=config_with(config, shape), tensors=tensors)


def _check_llama(child: Child) -> None:
    family = child.shape.family
    if family != "llama":
        raise ParentError(f"model_type = {family!r}: only a llama becomes a pangu_pi")
    for key, value in load_family("pangu_pi").only.items():
        if child.config.get(key, value) != value:
            raise ParentError(
                f"config.json {key} = {child.config[key]!r}: a pangu_pi has {value!r} only"
            )
