"""How fast llama.cpp is here: files of random weights, all loaded at once and asked in turns."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pocketlm.errors import RecipeError, UserError
from pocketlm.stages.export.gguf import import_gguf
from pocketlm.stages.export.llama_cpp import complete, in_a_process, start_server

_PROGRAM = "from pocketlm.stages.export.llama_cpp_speed import main; main()"


@dataclass(frozen=True, kw_only=True)
class SpeedJob:
    """Files to time, each with its prompt."""

    models: list[str]
    prompts: list[list[int]]
    new_tokens: int
    rounds: int


def check_llama_cpp() -> None:
    """Raise `RecipeError` with the install line unless files can be written and run here."""
    try:
        import_gguf()
    except UserError:
        raise RecipeError(
            "[design] runtime = 'llama.cpp' needs gguf and xllamacpp: pip install 'pocketlm[gguf]'"
        ) from None


def time_llama_cpp(job: SpeedJob) -> list[list[list[float]]]:
    """Seconds to the first new token and for the others, of each model, in each round.

    All models share one process on one thread, as in `export`. Raises `StageError` when llama.cpp
    cannot load a file.
    """
    found: list[list[list[float]]] = in_a_process(
        _PROGRAM, asdict(job), f"{len(job.models)} files of random weights"
    )
    return found


def main() -> None:
    """The other process: a job on standard input, the seconds to the file named as argument."""
    job = SpeedJob(**json.load(sys.stdin))
    positions = max(map(len, job.prompts)) + job.new_tokens + 1
    servers = [start_server(model, positions, cache="F16") for model in job.models]
    seconds = [
        [_time_once(server, prompt, job.new_tokens)
         for server, prompt in zip(servers, job.prompts, strict=True)]
        for _ in range(job.rounds)
    ]  # fmt: skip
    Path(sys.argv[1]).write_text(json.dumps(seconds), encoding="utf-8")


def _time_once(server: object, prompt: Sequence[int], new_tokens: int) -> list[float]:
    """By llama.cpp's own clock, which stops while it talks to us."""
    timings = complete(server, prompt, new_tokens, ignore_eos=True)["timings"]
    assert timings["predicted_n"] == new_tokens, timings
    return [timings["prompt_ms"] / 1000, timings["predicted_ms"] / 1000]
