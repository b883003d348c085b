"""How long shapes take here: random weights in each, prefill and decode apart, round after round.

Of several rounds two numbers are kept, because they answer two questions. The least is what the
shape itself costs: other work on a machine only ever makes a round longer, so the least is what
lines are fitted to and shapes are compared by. The median is what one gets on this machine as busy
as it was; how far the slowest round lies above the fastest says how much to trust either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.model.shape import Shape
from pocketlm.model.timing import Spread, time_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NEW_TOKENS = 32
_PROMPT_TOKENS = 64
_REPEATS = 5

FloatArray = npt.NDArray[np.float64]
# (shapes, a prompt each, new tokens, rounds) -> seconds_RS2: to the first new token, for the others
TimeRounds = Callable[[Sequence[Shape], Sequence[list[int]], int, int], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A program that runs models on this machine."""

    name: str
    weight_format: str
    """Of WEIGHT_FORMATS: how it holds them."""
    time_rounds: TimeRounds
    """Shapes take turns, so that a machine that slows down is slow for all of them."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one shape did here in one runtime."""

    shape: Shape
    context: int
    """Positions behind a new token, the middle of the timed ones."""
    prompt_tokens: int
    token_s: Spread
    """Seconds of one new token."""
    prompt_s: Spread
    """Seconds from a prompt to the first new token."""

    def as_dict(self) -> dict[str, Any]:
        """Speed of the least and of the median round, and slowest over fastest, each flat."""
        return {
            "tokens_per_s": 1 / self.token_s.min,
            "tokens_per_s_median": 1 / self.token_s.median,
            "spread": self.token_s.max / self.token_s.min,
            "prompt_tokens": self.prompt_tokens,
            "first_token_ms": 1000 * self.prompt_s.min,
            "first_token_ms_median": 1000 * self.prompt_s.median,
            "first_token_spread": self.prompt_s.max / self.prompt_s.min,
        }


def time_shapes(
    shapes: Sequence[Shape],
    runtime: Runtime,
    *,
    prompt_tokens: int = _PROMPT_TOKENS,
    new_tokens: int = _NEW_TOKENS,
    repeats: int = _REPEATS,
    rng: np.random.Generator,
) -> tuple[Timing, ...]:
    """Time prefill and decode of random weights in each shape: one warm-up, then `repeats` rounds.

    What the weights and the prompts are changes nothing about the time they take.
    """
    prompts_ST = [rng.integers(shape.vocab_size, size=prompt_tokens).tolist() for shape in shapes]
    rounds_RS2 = runtime.time_rounds(shapes, prompts_ST, new_tokens, repeats + 1)[1:]
    return tuple(
        Timing(
            shape=shape,
            context=prompt_tokens + new_tokens // 2,
            prompt_tokens=prompt_tokens,
            token_s=_spread(rounds_R2[:, 1] / (new_tokens - 1)),
            prompt_s=_spread(rounds_R2[:, 0]),
        )
        for shape, rounds_R2 in zip(shapes, rounds_RS2.swapaxes(0, 1), strict=True)
    )


def _spread(seconds_R: FloatArray) -> Spread:
    return Spread(
        median=float(np.median(seconds_R)), min=float(seconds_R.min()), max=float(seconds_R.max())
    )


def _in_transformers(
    shapes: Sequence[Shape], prompts_ST: Sequence[list[int]], new_tokens: int, rounds: int
) -> FloatArray:
    networks = [_network(shape) for shape in shapes]
    return np.array(
        [
            [time_once(*pair, new_tokens) for pair in zip(networks, prompts_ST, strict=True)]
            for _ in range(rounds)
        ]
    )


def _network(shape: Shape) -> "PreTrainedModel":
    import torch

    from pocketlm.model.start import base_config, constant

    config = base_config(shape, max_positions=4096, bos_id=None, eos_id=None)
    return constant(config, shape, torch.Generator().manual_seed(0)).network()


TRANSFORMERS = Runtime(name="transformers", weight_format="f32", time_rounds=_in_transformers)
