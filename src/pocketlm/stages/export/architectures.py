"""Which family is which architecture of llama.cpp, and what of a child llama.cpp cannot run.

llama.cpp's code for an architecture is fixed: what a config may choose and that code does not read
is refused here, before anything is written. Sources: llama.cpp's loaders and its conversion
scripts; every row was run (docs/results/export/matrix.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import UserError
from pocketlm.model.network import model_config
from pocketlm.model.shape import Shape, shape_of

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How llama.cpp reads one family."""

    name: str
    """Its name there."""
    pairs: bool = False
    """Rotary position turns neighbouring numbers of a head, where transformers turns its two
    halves: rows of q and k are then reordered (llama.cpp, LlamaModel.permute)."""
    rope_factors: bool = False
    """Whether it reads `rope_freqs`, a factor for each pair."""
    unrotated: int | None = None
    """Every such layer has no rotary position, whatever the file says. None: all layers have."""
    biases: tuple[str, ...] = ()
    """Switches of families whose biases it reads, where they are not always there."""


_LLAMA = Architecture(
    name="llama", pairs=True, rope_factors=True, biases=("attention_bias", "mlp_bias")
)

ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,  # as llama.cpp's own converter has it
    "qwen2": Architecture(name="qwen2"),
    "qwen3": Architecture(name="qwen3"),
    "smollm3": Architecture(name="smollm3", pairs=True, unrotated=4),
}
"""transformers model_type -> what llama.cpp makes of it, for the families whose files are proven.
A smollm3 whose layers all have rotary position is written as a llama."""

NOT_IN_LLAMA_CPP = ("pangu_pi",)

BY_FACTORS = ("linear", "llama3")
"""Rotary scalings that only divide each frequency by a constant: written as `rope_freqs`."""

BY_NAME = ("linear", "yarn")
"""Rotary scalings that every architecture of llama.cpp computes from keys of the file."""


def check_gguf_family(family: str) -> None:
    """Raise `UserError` for a family that has no gguf files."""
    if family in NOT_IN_LLAMA_CPP:
        raise UserError(
            f"[export] formats: no gguf files for family {family!r}: llama.cpp has no such "
            "architecture; choose huggingface"
        )
    if family not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"[export] formats: no gguf files for family {family!r}; it has {known}")


def check_gguf_config(config: Mapping[str, Any], *, layers_may_leave: bool = False) -> None:
    """Raise `UserError`, one line, for a `config.json` that llama.cpp would run otherwise.

    `layers_may_leave`: it is a parent's, so which layers lack rotary position is not known yet.
    """
    check_gguf_family(str(config["model_type"]))
    shape = shape_of(config)
    full = model_config(config)
    if full.hidden_act != "silu":
        raise UserError(f"[export] formats: gguf files need silu, not {full.hidden_act!r}")
    _check_window(full)
    architecture = architecture_of(full, shape)
    for key in shape.flipped:
        if key not in architecture.biases:
            raise UserError(
                f"[export] formats: no gguf files for {shape.family} with {key}: llama.cpp reads "
                "no such biases; choose huggingface"
            )
    if not layers_may_leave:
        _check_unrotated(full, shape, architecture)
    _check_scaling(full.rope_parameters, architecture)


def architecture_of(config: Any, shape: Shape) -> Architecture:
    """What a child is written as; `config` is transformers' own, all defaults filled in."""
    found = ARCHITECTURES[shape.family]
    return _LLAMA if found.unrotated and not _unrotated(config) else found


def rope_factors(config: Any, shape: Shape) -> FloatArray | None:
    """How much slower than plain rotary each pair of a head turns; None where the file has none."""
    rope, architecture = config.rope_parameters, architecture_of(config, shape)
    if not architecture.rope_factors or rope["rope_type"] not in BY_FACTORS:
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    width = shape.head_dim
    plain = rope["rope_theta"] ** (-np.arange(0, width, 2) / width)
    factors: FloatArray = (plain / frequencies.numpy()).astype(np.float32)
    return factors


def write_rope(writer: Any, config: Any, shape: Shape) -> None:
    """The file's keys of rotary position; `writer` is a `gguf.GGUFWriter`."""
    from gguf import RopeScalingType

    rope = config.rope_parameters
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind not in BY_NAME or rope_factors(config, shape) is not None:
        return
    writer.add_rope_scaling_type(RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _check_window(config: Any) -> None:
    """A window that never closes is none."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = config.model_type == "mistral" or "sliding_attention" in (kinds or ())
    positions = config.max_position_embeddings
    if window is not None and slides and window < positions:
        raise UserError(
            f"[export] formats: no gguf files for a {config.model_type} that looks back "
            f"{window} of its {positions} tokens: llama.cpp has no sliding window for it; choose "
            "huggingface"
        )


def _check_unrotated(config: Any, shape: Shape, architecture: Architecture) -> None:
    if architecture.unrotated is None:
        return
    every, found = architecture.unrotated, _unrotated(config)
    wanted = [layer for layer in range(shape.layers) if (layer + 1) % every == 0]
    if found != wanted:
        raise UserError(
            f"[export] formats: no gguf files for a smollm3 without rotary position in layers "
            f"{found}: in llama.cpp it is every {every}th, here {wanted}; choose [inherit] layers "
            "that keep to that, or huggingface"
        )


def _unrotated(config: Any) -> list[int]:
    """Layers without rotary position, from 0."""
    rotated = getattr(config, "no_rope_layers", None) or ()
    return [layer for layer, has in enumerate(rotated) if not has]


def _check_scaling(rope: Mapping[str, Any], architecture: Architecture) -> None:
    kind = rope["rope_type"]
    known = ("default", *BY_NAME, *(BY_FACTORS if architecture.rope_factors else ()))
    if kind not in known:
        raise UserError(f"[export] formats: no gguf files for rotary scaling {kind!r}")
    said = {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
    given = sorted(key for key in said & set(rope) if rope[key] is not None)
    if kind == "yarn" and given:
        raise UserError(
            f"[export] formats: no gguf files for rotary scaling 'yarn' with {', '.join(given)}"
        )
