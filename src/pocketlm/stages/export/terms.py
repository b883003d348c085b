"""What files are made under, besides the child: choices of width, budgets, and how to measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import BudgetError
from pocketlm.model.cost import weight_bytes
from pocketlm.model.family import tensors_of
from pocketlm.model.shape import Shape
from pocketlm.stages.export.quantise import BLOCK, PLAIN, WIDTH, Choice, Weights
from pocketlm.units import show_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GGUF = "gguf-"


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """Memory while generating that a file in one format must keep to."""

    max_bytes: int
    weight_format: str
    """A name of WEIGHT_FORMATS; files in other formats are not held to the budget."""
    other_bytes: int
    """Cache and logits, which come on top of the weights."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Everything but the child that decides what is delivered and what is said about it."""

    choice: Choice = PLAIN
    max_bytes: int | None = None
    """Bytes of a delivered format on disk at most. None: any."""
    memory: MemoryBudget | None = None
    bits_per_byte: "Callable[[PreTrainedModel], float] | None" = None
    """Score of a network that speaks the child's tokens, on held-out text. None: not scored."""
    speed_tokens: int = 0
    """Tokens read, and tokens written, when a file is timed here; 0: none is."""
    device: str = ""
    predict_tokens_per_s: Callable[[int], float] | None = None
    """New tokens a second on `device`, from the bytes of weights that each one reads."""


PLAIN_TERMS = Terms()
"""No budget; nothing is scored or timed."""


def check_planned(shape: Shape, formats: Sequence[str], terms: Terms) -> None:
    """Raise `BudgetError` for a format whose weights alone cannot keep to a budget.

    Needs no weights, so it can be asked before a child is trained.
    """
    for name in formats:
        planned = stored_bytes(shape, name, terms.choice)
        if planned is None:
            continue
        if terms.max_bytes is not None and planned > terms.max_bytes:
            raise _too_large(name, planned, terms.max_bytes)
        memory = terms.memory
        # The design's bf16 is safetensors', whose vectors are 16 bit too.
        own = weights_of(name) if name != "gguf-bf16" else ""
        if memory is None or own != memory.weight_format:
            continue
        needed = planned + memory.other_bytes
        if needed > memory.max_bytes:
            raise BudgetError(
                f"[design] max_bytes = {memory.max_bytes}: {name} needs {needed} bytes while "
                f"generating ({show_bytes(planned)} of weights, {show_bytes(memory.other_bytes)} "
                "of cache and logits); keep fewer parts in 8 bit, or raise it"
            )


def check_delivered(name: str, num_bytes: int, terms: Terms) -> None:
    """Raise `BudgetError` for a format that was written and takes more of the disk than it may."""
    if terms.max_bytes is not None and num_bytes > terms.max_bytes:
        raise _too_large(name, num_bytes, terms.max_bytes)


def weights_of(name: str) -> str:
    """The name of WEIGHT_FORMATS that a format's files keep weights in; empty where none is."""
    if name == "huggingface":
        return "f32"
    return name.removeprefix(_GGUF) if name.startswith(_GGUF) else ""


def stored_bytes(
    shape: Shape, name: str, choice: Choice = PLAIN, *, read_by_a_token: bool = False
) -> int | None:
    """Bytes of the weights in a file of format `name`; None for formats not known beforehand.

    `read_by_a_token`: without an untied embedding, of which a token reads one row.
    """
    weights = weights_of(name).upper()
    named: dict[str, Weights] = {known: known for known in WIDTH}
    if name == "huggingface" and not read_by_a_token:
        return weight_bytes(shape, "f32")
    if weights not in named:
        return None
    total = 0.0
    for placed in tensors_of(shape):
        if read_by_a_token and placed.row.part == "embedding" and not shape.tied:
            continue
        kind = choice.of(placed.row.part, named[weights]) if len(placed.dims) > 1 else "F32"
        if kind.startswith("Q") and placed.dims[-1] % BLOCK:
            kind = "F16"
        total += float(np.prod(placed.dims)) * WIDTH[kind] / 8
    return round(total)


def _too_large(name: str, num_bytes: int, max_bytes: int) -> BudgetError:
    return BudgetError(
        f"[export] max_bytes = {max_bytes}: {name} takes {num_bytes}; choose a narrower format, "
        "keep fewer parts in 8 bit, or raise it"
    )
