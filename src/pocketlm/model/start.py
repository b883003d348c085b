"""First weights without a parent: random, by one of four schemes (paper, random initialisation).

The paper compares them and recommends one constant deviation for all layers.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pocketlm.method import Method
from pocketlm.model.child import Child
from pocketlm.model.family import load_family, tensors_of
from pocketlm.model.shape import Shape, config_with

if TYPE_CHECKING:
    import torch

_STD = 0.02

Start = Callable[[Mapping[str, Any], Shape, "torch.Generator"], Child]


def base_config(
    shape: Shape, *, max_positions: int, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
    """The `config.json` of a model of `shape` that has no parent.

    `max_positions`: longest context in tokens. Raises `ParentError` for an unknown family.
    """
    family = load_family(shape.family)
    config = {
        "architectures": [family.architecture],
        "model_type": shape.family,
        **family.fresh,
        "max_position_embeddings": max_positions,
        "pad_token_id": None,  # some families' default lies outside a small vocabulary
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
    }
    return config_with(config, shape)


def constant(config: Mapping[str, Any], shape: Shape, rng: "torch.Generator") -> Child:
    """N(0, 0.02^2) on every matrix, ones on norms, zeros on biases."""
    return _draw(config, shape, rng)


def gpt2(config: Mapping[str, Any], shape: Shape, rng: "torch.Generator") -> Child:
    """As `constant`, but what writes to the residual stream has 0.02 / sqrt(2 * layers).

    Each of the 2 * layers additions then adds an equal share of the stream's variance.
    """
    return _draw(config, shape, rng, residual_scale=lambda layer: (2 * shape.layers) ** -0.5)


def depth_scaled(config: Mapping[str, Any], shape: Shape, rng: "torch.Generator") -> Child:
    """As `constant`, but attention output and FFN down have 0.02 / sqrt(2 * (layer + 1))."""
    return _draw(config, shape, rng, residual_scale=lambda layer: (2 * (layer + 1)) ** -0.5)


def small(config: Mapping[str, Any], shape: Shape, rng: "torch.Generator") -> Child:
    """N(0, 2 / (5 * hidden)) on every matrix: 0.02 at a width of 1000, more below.

    Made for layers of hidden x 4 hidden, where it equals Xavier's.
    """
    return _draw(config, shape, rng, std=(2 / (5 * shape.hidden)) ** 0.5)


STARTS: dict[str, Method[Start]] = {
    "constant": Method(constant, paper="arXiv 2402.02791, random initialisation (recommended)"),
    "gpt2": Method(gpt2, paper="Radford et al. 2019, section 2.3; arXiv 2402.02791"),
    "depth-scaled": Method(depth_scaled, paper="InternLM (InternEvo); arXiv 2402.02791"),
    "small": Method(small, paper="Nguyen & Salazar 2019 (arXiv 1910.05895), small init"),
}


def _draw(
    config: Mapping[str, Any],
    shape: Shape,
    rng: "torch.Generator",
    *,
    std: float = _STD,
    residual_scale: Callable[[int], float] = lambda layer: 1.0,
) -> Child:
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for placed in tensors_of(shape):
        if placed.row.neutral is not None:
            tensors[placed.name] = torch.full(placed.dims, placed.row.neutral)
            continue
        if len(placed.dims) == 1:
            tensors[placed.name] = torch.full(placed.dims, 0.0 if placed.row.is_bias else 1.0)
            continue
        scale = 1.0
        if placed.row.writes_residual and placed.layer is not None:
            scale = residual_scale(placed.layer)
        weight = torch.empty(placed.dims)
        tensors[placed.name] = weight.normal_(0.0, std * scale, generator=rng)
    return Child(config=config_with(config, shape), tensors=tensors)
