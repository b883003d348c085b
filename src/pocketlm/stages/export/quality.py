"""What each file is worth: bits per byte of its own numbers, and its speed here."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.cost import kv_bytes_per_token
from pocketlm.model.timing import measure_speed
from pocketlm.stages.export.llama_cpp_speed import FileSpeed, measure_file
from pocketlm.stages.export.terms import Terms, stored_bytes
from pocketlm.stages.export.verify import Check

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.model.child import Child

ROUNDS = 3


def score_file(bits: float, child_bits: float, how: str) -> tuple[Check, ...]:
    """Bits per byte of a file and what it loses against the trained child."""
    loss = 100 * (bits / child_bits - 1)
    return (
        Check(name="bits_per_byte", value=bits, unit=f"bits/byte, {how}"),
        Check(name="bits_per_byte_loss_pct", value=loss, unit="% of the child's"),
    )


def time_in_llama_cpp(path: Path, vocab_size: int, num_tokens: int) -> tuple[Check, ...]:
    """Load time, memory and speed of one gguf file, in a process of its own; none for 0 tokens."""
    if num_tokens < 2:
        return ()
    prompt = np.random.default_rng(0).integers(0, vocab_size, size=num_tokens).tolist()
    return _speed_checks(measure_file(path, prompt, new_tokens=num_tokens, rounds=ROUNDS))


def time_in_transformers(
    load: "Callable[[], PreTrainedModel]", num_tokens: int
) -> tuple[Check, ...]:
    """The same of a transformers model that `load` reads, on one thread, float32."""
    if num_tokens < 2:
        return ()
    started = time.perf_counter()
    network = load()
    load_s = time.perf_counter() - started
    rng = np.random.default_rng(0)
    with _one_thread():
        speed = measure_speed(
            network, prompt_tokens=num_tokens, new_tokens=num_tokens, repeats=ROUNDS, rng=rng
        )
    return _speed_checks(
        FileSpeed(
            load_s=load_s,
            peak_bytes=speed.peak_bytes,
            prefill_tokens_per_s=speed.prefill_tokens_per_s.max,
            decode_tokens_per_s=speed.decode_tokens_per_s.max,
        )
    )


def predict(child: "Child", name: str, terms: Terms) -> tuple[Check, ...]:
    """The device's bound of decode speed for a file of format `name`; none where it is unknown."""
    read = stored_bytes(child.shape, name, terms.choice, read_by_a_token=True)
    if terms.predict_tokens_per_s is None or read is None:
        return ()
    read += terms.speed_tokens * kv_bytes_per_token(child.shape)
    bound = terms.predict_tokens_per_s(read)
    unit = f"tokens/s, bound of {terms.device}"
    return (Check(name="predicted_tokens_per_s", value=bound, unit=unit),)


def _speed_checks(speed: FileSpeed) -> tuple[Check, ...]:
    best = f"tokens/s, one thread, best of {ROUNDS}"
    return (
        Check(name="load_s", value=speed.load_s, unit="s"),
        Check(name="peak_bytes", value=speed.peak_bytes, unit="bytes"),
        Check(name="prefill_tokens_per_s", value=speed.prefill_tokens_per_s, unit=best),
        Check(name="decode_tokens_per_s", value=speed.decode_tokens_per_s, unit=best),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """As llama.cpp is timed; more threads only wait for each other in models this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
