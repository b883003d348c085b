"""What a run decides by itself, once: attention, compilation, and how a step is cut to fit memory.

All of them change numbers in the last digits, so they are stored with every checkpoint, reused on
resume and delivered with the child. Memory decides by arithmetic. Speed decides by trying, in runs
long enough for that; short runs take what is usually best on such a device, so that they repeat.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from pocketlm.device import memory_bytes
from pocketlm.errors import RecipeError
from pocketlm.hardware import ranks
from pocketlm.model.attention import QUERY_BLOCKS
from pocketlm.model.cost import attention_weight_bytes, training_bytes
from pocketlm.model.shape import Shape
from pocketlm.recipe import TrainTable

COMPILE_SECONDS = 90.0
"""A cold compilation of the step: 27 to 94 s measured (8 layers x 288, two busy cores)."""
COMPILE_SAVES = 0.15
"""Share of an eager step that compiling takes away: 0.15 to 0.20 measured there."""

_MEMORY_SHARE = 0.8  # of the device's, for a step
_ATTENTION_SHARE = 0.25  # of the device's, for attention weights kept by query blocks
_PREDICTION_BYTES = 16  # for each logit: the parent's, their softmax, and two products
_STEPS_WORTH_TRYING = 200
_SECONDS_WORTH_TRYING = 120.0
_TRIES = 3


@dataclass(frozen=True)
class Choices:
    """Everything decided, in a form a checkpoint can hold."""

    attention: str
    """A transformers attention implementation."""
    compile: bool
    """The step is compiled."""
    micro_blocks: int
    """Blocks whose gradients are made at once."""
    cross_entropy: str
    """`full` or `chunked`."""

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint or a manifest."""
        return asdict(self)


def usual_choices(shape: Shape, table: TrainTable, device: str) -> Choices:
    """What fits this device's memory and is usually fastest on it; nothing is run.

    Raises `RecipeError` where `compile = true` has no compiler to work with.
    """
    memory = device_bytes(device)
    attention: str = table.attention
    if attention == "auto":
        kept = attention_weight_bytes(shape, table.batch_tokens, table.seq_len)
        blocks = device == "cpu" and kept <= _ATTENTION_SHARE * memory
        blocks = blocks and not table.document_mask  # query blocks take no mask
        attention = QUERY_BLOCKS if blocks else "sdpa"
    if table.compile is True and not has_compiler(device):
        raise RecipeError("[train] compile = true: needs g++ or clang++ on PATH (or false)")
    micro_blocks, cross_entropy = fit_memory(shape, table, attention, memory)
    return Choices(attention, table.compile is True, micro_blocks, cross_entropy)


def fit_memory(
    shape: Shape, table: TrainTable, attention: str, memory: int
) -> tuple[int, Literal["full", "chunked"]]:
    """Blocks at once and the form of the loss: the largest micro-batch that fits `memory` bytes,
    with all logits if they fit too. What the recipe fixes is not changed."""
    batch = table.batch_tokens // table.seq_len
    given = table.micro_batch_tokens
    sizes = [min(batch, given // table.seq_len)] if given else _halves(batch)
    forms: tuple[Literal["full", "chunked"], ...] = ("full", "chunked")
    if table.cross_entropy != "auto":
        forms = (table.cross_entropy,)
    if table.distils:
        forms = ("full",)  # all logits are compared with the parent's
    for blocks in sizes:
        tokens, extra = blocks * table.seq_len, 0
        if attention != "sdpa":
            extra = attention_weight_bytes(shape, tokens, table.seq_len)
            extra //= shape.layers if table.recompute else 1
        if table.distils:
            extra += _PREDICTION_BYTES * tokens * shape.vocab_size
        for form in forms:
            needed = extra + training_bytes(
                shape, tokens, recompute=table.recompute, logits=form == "full"
            )
            if needed <= _MEMORY_SHARE * memory:
                return blocks, form
    return sizes[-1], forms[-1]


def try_choices(
    usual: Choices,
    table: TrainTable,
    *,
    step: Callable[[Choices], object],
    steps_left: int,
    device: str,
) -> Choices:
    """The fastest attention here, and whether compiling pays; `step` makes gradients once.

    Nothing is tried in runs of under 200 steps or two minutes, nor where the recipe decides.
    """
    if steps_left < _STEPS_WORTH_TRYING or "auto" not in (table.attention, table.compile):
        return usual
    eager = replace(usual, compile=False)
    attention, seconds = _fastest({usual.attention: eager}, step, device)
    if seconds * steps_left < _SECONDS_WORTH_TRYING:
        return usual
    if table.attention == "auto" and device == "cpu" and usual.attention == QUERY_BLOCKS:
        rivals = {name: replace(eager, attention=name) for name in (QUERY_BLOCKS, "sdpa")}
        attention, seconds = _fastest(rivals, step, device)
    pays = table.compile == "auto" and has_compiler(device) and compiling_pays(seconds, steps_left)
    return replace(usual, attention=attention, compile=usual.compile or pays)


def compiling_pays(step_seconds: float, steps_left: int) -> bool:
    """The seconds saved in the steps left are more than a cold compilation takes."""
    return COMPILE_SAVES * step_seconds * steps_left > COMPILE_SECONDS


def has_compiler(device: str) -> bool:
    """torch.compile can work: a C++ compiler, and on a GPU triton as well."""
    from importlib.util import find_spec

    found = shutil.which("g++") or shutil.which("clang++")
    return found is not None and (device == "cpu" or find_spec("triton") is not None)


def device_bytes(device: str) -> int:
    """Memory of the device for this process, whatever of it is free just now."""
    if device == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return memory_bytes() // ranks().count_here


def _fastest(
    rivals: Mapping[str, Choices], step: Callable[[Choices], object], device: str
) -> tuple[str, float]:
    """The rival with the least wall seconds a step; they take turns, the first to warm up."""
    least = dict.fromkeys(rivals, float("inf"))
    for turn in range(_TRIES + 1):
        for name, choices in rivals.items():
            started = time.perf_counter()
            step(choices)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                least[name] = min(least[name], time.perf_counter() - started)
    return min(least.items(), key=lambda item: item[1])


def _halves(batch: int) -> list[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes
