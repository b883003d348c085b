"""How fast to learn: the rate's shape over all steps, and its peak."""

import math

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


def default_rate(num_params: int, num_tokens: int) -> float:
    """Peak rate by the step law 1.79 N^-0.713 D^0.307 (arXiv 2503.04715), at most 3e-3.

    N parameters, D training tokens. The law was fitted from 60M parameters up; below that it
    overshoots (2M parameters on 2M tokens: it says 4.9e-3, 2e-3 was best), hence the cap.
    """
    step_law: float = 1.79 * num_params**-0.713 * num_tokens**0.307
    return min(MAX_DEFAULT_RATE, step_law)
