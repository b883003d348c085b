"""Programs that shapes are timed in on this machine; what runs llama.cpp is export's."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pocketlm.model.shape import Shape
from pocketlm.stages.design import TRANSFORMERS, Runtime
from pocketlm.stages.export.gguf import write_wordless_gguf
from pocketlm.stages.export.llama_cpp_speed import SpeedJob, check_llama_cpp, time_llama_cpp
from pocketlm.stages.export.quantise import Weights


def timed_runtime(name: str, weight_format: str) -> Runtime:
    """`llama.cpp` with weights in `weight_format`; any other name is transformers, in float32.

    The roofline times nothing, so `measured` takes transformers beside it. Raises `RecipeError`
    where llama.cpp is not installed.
    """
    if name != "llama.cpp":
        return TRANSFORMERS
    check_llama_cpp()

    def time_rounds(
        shapes: Sequence[Shape], prompts_ST: Sequence[list[int]], new_tokens: int, rounds: int
    ) -> npt.NDArray[np.float64]:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}.gguf" for i in range(len(shapes))]
            for shape, file in zip(shapes, files, strict=True):
                _write(shape, file, weight_format)
            seconds_RS2 = time_llama_cpp(
                SpeedJob(models=[str(file) for file in files], prompts=list(prompts_ST),
                         new_tokens=new_tokens, rounds=rounds)
            )  # fmt: skip
        return np.array(seconds_RS2)

    return Runtime(name="llama.cpp", weight_format=weight_format, time_rounds=time_rounds)


def _write(shape: Shape, file: Path, weight_format: str) -> None:
    """Random weights of `shape`, rounded as the device would keep them."""
    import torch

    from pocketlm.model.start import base_config, constant

    config = base_config(shape, max_positions=4096, bos_id=None, eos_id=None)
    child = constant(config, shape, torch.Generator().manual_seed(0))
    weights = cast(Weights, weight_format.upper())  # both are llama.cpp's names
    write_wordless_gguf(child, file, weights=weights)
