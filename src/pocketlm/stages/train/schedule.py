"""How fast to learn: the rate's shape over all steps, and its peak."""

import math
from collections.abc import Callable, Sequence

from pocketlm.method import Method, pick
from pocketlm.recipe import TrainTable
from pocketlm.units import show_count

MAX_DEFAULT_RATE = 3e-3
INHERITED_SHARE = 1 / 3
"""Of the step law's rate, for weights that know something already: the whole of it takes a good
start apart before it builds (docs/results/inheritance-rates: 1.104 bits per byte at 3e-3, 1.087 at
1e-3; from random weights 1.685 and 1.707)."""
SAFE_BATCH_TOKENS = 4_000_000
"""Above it convergence slows and the exponent is no longer 0.5 (paper)."""


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


class Rates:
    """The rate of every step: the recipe's peak and shapes over the rounds' first steps, the end
    behind them. Raises `RecipeError` for a shape that is in no table."""

    def __init__(self, table: TrainTable, first_steps: Sequence[int], peak: float) -> None:
        self._first_steps, self._peak, self._warmup = first_steps, peak, table.warmup_fraction
        self._decay = pick(SCHEDULES, table.schedule, "[train] schedule")
        self._span = pick(ROUND_SCHEDULES, table.round_schedule, "[train] round_schedule")

    def at(self, step: int) -> float:
        """The rate of a step, counted over all rounds."""
        span = self._span(self._first_steps, step)
        share = rate_share(step, span, warmup_fraction=self._warmup, decay=self._decay)
        return self._peak * share


def default_rate(num_params: int, num_tokens: int) -> float:
    """Peak rate by the step law 1.79 N^-0.713 D^0.307 (arXiv 2503.04715), at most 3e-3.

    N parameters, D training tokens. The law was fitted from 60M parameters up; below that it
    overshoots (2M parameters on 2M tokens: it says 4.9e-3, 2e-3 was best), hence the cap.
    """
    step_law: float = 1.79 * num_params**-0.713 * num_tokens**0.307
    return min(MAX_DEFAULT_RATE, step_law)


def peak_rate(
    table: TrainTable, num_params: int, num_tokens: int, *, inherited: bool = False
) -> float:
    """The rate after warm-up: as given, by the paper's rule, or by the step law, a third of it for
    weights that were `inherited`.

    `num_tokens` are those of all rounds.
    """
    if table.learning_rate is not None:
        return table.learning_rate
    if table.reference_rate is not None and table.reference_batch_tokens is not None:
        return square_root_rate(
            table.reference_rate, table.batch_tokens / table.reference_batch_tokens
        )
    return default_rate(num_params, num_tokens) * (INHERITED_SHARE if inherited else 1.0)


def square_root_rate(reference_rate: float, batch_ratio: float) -> float:
    """lr0 (B / B0)^0.5 (arXiv 2402.02791, batch size and learning rate)."""
    return reference_rate * math.sqrt(batch_ratio)


def explain_rate(
    table: TrainTable, num_params: int, num_tokens: int, *, inherited: bool = False
) -> str:
    """The peak rate, where it comes from, and what the other rule says."""
    law = f"step law {default_rate(num_params, num_tokens):.2e}"
    peak = peak_rate(table, num_params, num_tokens, inherited=inherited)
    batch = show_count(float(table.batch_tokens))
    if table.reference_rate is None:
        chosen = f"{peak:.2e} as given; {law}" if table.learning_rate else law
        if inherited and not table.learning_rate:
            chosen = f"{peak:.2e}, a third of the {law}, for inherited weights"
        return f"{chosen}; doubling the batch of {batch} tokens would call for x 1.41 (paper)"
    begun = f"{table.reference_rate:.2e} at {show_count(float(table.reference_batch_tokens or 0))}"
    text = f"{peak:.2e}, the paper's square root from {begun} tokens a step to {batch}; {law}"
    if table.batch_tokens > SAFE_BATCH_TOKENS:
        text += f"; warning: above {show_count(float(SAFE_BATCH_TOKENS))} the rule no longer holds"
    return text
