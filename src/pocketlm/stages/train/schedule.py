"""How fast to learn: the rate's shape over all steps, and its peak."""

import math
from collections.abc import Callable, Sequence

from pocketlm.method import Method

MAX_DEFAULT_RATE = 3e-3


def linear(done: float) -> float:
    """Straight to zero (arXiv 2502.15938: beats a tenfold decay at every length tried)."""
    return 1.0 - done


def cosine(done: float) -> float:
    """Half a cosine down to a tenth (paper's release: 1e-4 to 1e-5)."""
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))


def wsd(done: float) -> float:
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): flat, the last fifth straight to zero."""
    return min(1.0, (1.0 - done) / 0.2)


SCHEDULES = {
    "linear": Method(linear, paper="arXiv 2502.15938"),
    "cosine": Method(cosine, paper="arXiv 2402.02791, public configuration"),
    "wsd": Method(wsd, paper="arXiv 2404.06395"),
}


def continued(first_steps: Sequence[int], step: int) -> tuple[int, int]:
    """One warm-up and one decay over all rounds."""
    return first_steps[0], first_steps[-1]


def rewarmed(first_steps: Sequence[int], step: int) -> tuple[int, int]:
    """Every round warms up to the full peak and decays anew."""
    number = max(n for n, first in enumerate(first_steps[:-1]) if first <= step)
    return first_steps[number], first_steps[number + 1]


ROUND_SCHEDULES = {
    "continue": Method(continued, paper="ours; arXiv 2402.02791 does not say"),
    "rewarm": Method(rewarmed, paper="after arXiv 2308.04014, re-warming; ours by round"),
}


def rate_share(
    step: int, span: tuple[int, int], *, warmup_fraction: float, decay: Callable[[float], float]
) -> float:
    """Share of the peak rate at `step`, 0..1: warm-up, then `decay`, from span[0] to span[1]."""
    total, done = span[1] - span[0], step - span[0]
    warmup = max(1, round(warmup_fraction * total))
    if done < warmup:
        return (done + 1) / warmup
    return decay((done - warmup) / max(1, total - warmup))


def default_rate(num_params: int, num_tokens: int) -> float:
    """Peak rate by the step law 1.79 N^-0.713 D^0.307 (arXiv 2503.04715), at most 3e-3.

    N parameters, D training tokens. The law was fitted from 60M parameters up; below that it
    overshoots (2M parameters on 2M tokens: it says 4.9e-3, 2e-3 was best), hence the cap.
    """
    step_law: float = 1.79 * num_params**-0.713 * num_tokens**0.307
    return min(MAX_DEFAULT_RATE, step_law)
