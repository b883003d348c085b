"""Greedy generation through a KV cache, and how fast it goes on this machine.

Prefill reads the whole prompt at once and is bound by arithmetic; decode reads one token at a time
and is bound by memory. The two are therefore timed apart (Pope et al. 2023, arXiv 2211.05102).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.progress import silent_stderr

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One quantity measured several times."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one network does on the device it lies on, one sequence at a time."""

    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    first_token_ms: Spread
    """From handing over the prompt to holding the first new token."""
    peak_bytes: int
    """Most that tensors take at once, weights included, over the prompt and all new tokens."""


def greedy_logits(
    network: "PreTrainedModel", prompt_T: Sequence[int]
) -> "Iterator[tuple[int, torch.Tensor]]":
    """Yield (token, logits_V it was chosen from) without end; `prompt_T` holds one id or more.

    The token is on the host when it is yielded, so whoever times this loop times finished work.
    """
    import torch

    ids_1T = torch.tensor([list(prompt_T)], device=network.device)
    cache = None
    while True:
        # Entered anew at each step: a generator must not leave its caller in inference mode.
        with torch.inference_mode():
            out = network(ids_1T, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits_V = out.past_key_values, out.logits[0, -1]
            ids_1T = logits_V.argmax().view(1, 1)
        yield int(ids_1T), logits_V


def greedy_tokens(
    network: "PreTrainedModel", prompt_T: Sequence[int], *, new_tokens: int, stop: int | None = None
) -> list[int]:
    """The `new_tokens` likeliest tokens one after the other; `stop` ends it and is not returned."""
    tokens: list[int] = []
    if new_tokens < 1:
        return tokens
    for token, _ in greedy_logits(network, prompt_T):
        if token == stop:
            break
        tokens.append(token)
        if len(tokens) == new_tokens:
            break
    return tokens


def measure_speed(
    network: "PreTrainedModel",
    *,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int = 5,
    rng: np.random.Generator,
) -> Speed:
    """Time prefill and decode `repeats` times after one warm-up, on random prompts.

    Needs `prompt_tokens` >= 1, `new_tokens` >= 2, `repeats` >= 1. Speed does not depend on which
    ids are read, so random ones do; nothing stops at an end token.
    """
    prompts_RT = rng.integers(0, network.config.vocab_size, size=(repeats + 2, prompt_tokens))
    peak = peak_bytes(network, prompts_RT[0].tolist(), new_tokens)
    rounds = [time_once(network, prompt_T.tolist(), new_tokens) for prompt_T in prompts_RT[1:]][1:]
    return Speed(
        prefill_tokens_per_s=_spread([prompt_tokens / prefill_s for prefill_s, _ in rounds]),
        decode_tokens_per_s=_spread([(new_tokens - 1) / decode_s for _, decode_s in rounds]),
        first_token_ms=_spread([1000 * prefill_s for prefill_s, _ in rounds]),
        peak_bytes=peak,
    )


def peak_bytes(network: "PreTrainedModel", prompt_T: Sequence[int], new_tokens: int) -> int:
    """Weights, and the most that all other tensors take at once while this is generated.

    Counted by the allocator itself, so neither Python nor what ran before is in it.
    """
    import torch

    weights: int = sum(parameter.nbytes for parameter in network.parameters())
    if network.device.type == "cuda":
        held = torch.cuda.memory_allocated(network.device)
        torch.cuda.reset_peak_memory_stats(network.device)
        greedy_tokens(network, prompt_T, new_tokens=new_tokens)
        return weights + torch.cuda.max_memory_allocated(network.device) - held
    with (
        silent_stderr(),  # the profiler speaks whatever its log level
        torch.profiler.profile(profile_memory=True, acc_events=False) as profiled,
    ):
        greedy_tokens(network, prompt_T, new_tokens=new_tokens)
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return weights + most


def time_once(
    network: "PreTrainedModel", prompt_T: list[int], new_tokens: int
) -> tuple[float, float]:
    """Seconds to the first new token, and seconds for the `new_tokens` - 1 after it (>= 1)."""
    tokens = greedy_logits(network, prompt_T)
    start = time.perf_counter()
    next(tokens)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        next(tokens)
    return first - start, time.perf_counter() - first


def _spread(values: list[float]) -> Spread:
    return Spread(median=float(np.median(values)), min=min(values), max=max(values))
