"""How fast a shape answers: straight lines in what it reads and computes, fitted or from a profile.

One token:  fixed + layers x per layer + outputs x each + (weights + cache) x seconds a byte
A prompt:   fixed + layers x per layer + FLOPs x seconds a FLOP

The first two terms are what a runtime spends on launching work whatever its size; for models of a
few million parameters they are most of the time. Outputs are the numbers that a layer's products
make, which are then normed, rotated, activated and added: they grow with width and not with its
square as bytes do (ours; without the term, shapes around 192 wide were predicted too fast). All
are fitted to timings on this machine. A device that is only a profile has none of them: its lines
are the roofline (Williams et al. 2009), an upper bound of speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocketlm.device import Device
from pocketlm.model.cost import decode_read_bytes, flops_per_token, layer_outputs
from pocketlm.model.shape import Shape
from pocketlm.stages.design.timed import TRANSFORMERS, Runtime, Timing, time_shapes

# Small and large in every direction that the lines have: layers, bytes, and the two against each
# other. float32, 1 to 90 MB.
_FITTED = ((2, 64), (12, 64), (24, 128), (2, 256), (12, 256), (4, 512), (8, 384), (6, 768))
_CHECKED = ((4, 128), (8, 128), (16, 96), (3, 192), (6, 192), (20, 192), (10, 320), (2, 384),
            (5, 448), (12, 384), (3, 640), (8, 576))  # fmt: skip
_VOCAB_SIZE = 4096


@dataclass(frozen=True, kw_only=True)
class SpeedModel:
    """Seconds of a token and of a prompt for any shape, in one runtime on one device."""

    runtime: str
    """`transformers` where it was fitted here; `roofline` of a device profile."""
    weight_format: str
    """Of WEIGHT_FORMATS: what the runtime reads for each token."""
    token_s: float
    token_layer_s: float
    output_s: float = 0.0
    """Seconds for each number that a layer's matrix products make of a token."""
    byte_s: float
    """Seconds for each byte of weights and cache a token reads."""
    prompt_s: float
    prompt_layer_s: float
    flop_s: float
    """Seconds for each FLOP of a prompt."""
    error: float | None = None
    """Largest relative error of a token's seconds on shapes that were not fitted; None: unknown."""

    def token_seconds(self, shape: Shape, context: int) -> float:
        """Seconds of one new token after `context` others."""
        fixed = self.token_s + shape.layers * self.token_layer_s
        if self.output_s:  # a profile has no such term
            fixed += self.output_s * layer_outputs(shape)
        return fixed + self.byte_s * decode_read_bytes(shape, self.weight_format, context)

    def prompt_seconds(self, shape: Shape, num_tokens: int) -> float:
        """Seconds from a prompt of `num_tokens` to the first new token."""
        fixed = self.prompt_s + shape.layers * self.prompt_layer_s
        return fixed + self.flop_s * num_tokens * flops_per_token(shape, num_tokens)

    def tokens_per_s(self, shape: Shape, context: int) -> float:
        """New tokens a second, one sequence."""
        return 1 / self.token_seconds(shape, context)


def roofline(device: Device, weight_format: str) -> SpeedModel:
    """The lines of a profile: memory bandwidth for a token, arithmetic for a prompt."""
    flops = device.compute.fp16 or device.compute.fp32
    return SpeedModel(
        runtime="roofline",
        weight_format=weight_format,
        token_s=0.0,
        token_layer_s=0.0,
        byte_s=1 / device.memory_bandwidth,
        prompt_s=0.0,
        prompt_layer_s=0.0,
        flop_s=1 / flops,
    )


def fit_speed(timings: Sequence[Timing], runtime: Runtime) -> SpeedModel:
    """Non-negative least squares of relative errors through the least of at least four timings.

    Relative, so that a model of 2 ms counts as much as one of 50; non-negative, so that no shape is
    predicted faster for having more layers.
    """
    assert len(timings) >= 4, "four unknowns"
    ones = [1.0] * len(timings)
    layers = [float(t.shape.layers) for t in timings]
    read = [float(decode_read_bytes(t.shape, runtime.weight_format, t.context)) for t in timings]
    flops = [t.prompt_tokens * flops_per_token(t.shape, t.prompt_tokens) for t in timings]
    outputs = [float(layer_outputs(t.shape)) for t in timings]
    token = _relative_fit([ones, layers, outputs, read], [t.token_s.min for t in timings])
    prompt = _relative_fit([ones, layers, flops], [t.prompt_s.min for t in timings])
    return SpeedModel(
        runtime=runtime.name,
        weight_format=runtime.weight_format,
        token_s=token[0],
        token_layer_s=token[1],
        output_s=token[2],
        byte_s=token[3],
        prompt_s=prompt[0],
        prompt_layer_s=prompt[1],
        flop_s=prompt[2],
    )


def relative_errors(model: SpeedModel, timings: Sequence[Timing]) -> list[float]:
    """Predicted tokens per second over the best round's, less one; positive: too fast."""
    return [t.token_s.min / model.token_seconds(t.shape, t.context) - 1 for t in timings]


def fit_here(
    rng: np.random.Generator, runtime: Runtime = TRANSFORMERS
) -> tuple[SpeedModel, tuple[Timing, ...]]:
    """Fit on eight shapes of 1 to 180 MB, then try the lines on twelve others; about half a minute.

    Returns the model, its `error` the largest of the twelve, and the timings of the twelve.
    """
    shapes = [_plain(*size) for size in (*_FITTED, *_CHECKED)]
    timings = time_shapes(shapes, runtime, rng=rng)
    fitted, checked = timings[: len(_FITTED)], timings[len(_FITTED) :]
    model = fit_speed(fitted, runtime)
    worst = max(abs(error) for error in relative_errors(model, checked))
    return replace(model, error=worst), checked


def _plain(layers: int, hidden: int) -> Shape:
    """Tied, whole heads of 32, an FFN near 2.77 x hidden."""
    heads = hidden // 32
    return Shape(
        family="llama",
        vocab_size=_VOCAB_SIZE,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=32,
        ffn=round(2.77 * hidden / 32) * 32,
        tied=True,
    )


def _relative_fit(columns_CS: Sequence[Sequence[float]], seconds_S: Sequence[float]) -> list[float]:
    from scipy.optimize import nnls

    scaled_SC = np.array(columns_CS).T / np.array(seconds_S)[:, None]
    norms_C = np.linalg.norm(scaled_SC, axis=0)  # bytes and counts are ten powers of ten apart
    coefficients_C, _ = nnls(scaled_SC / norms_C, np.ones(len(seconds_S)))
    found: list[float] = (coefficients_C / norms_C).tolist()
    return found
