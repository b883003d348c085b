"""How fast llama.cpp is here: many files in turns, or one file in a process of its own."""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pocketlm.errors import RecipeError, UserError
from pocketlm.stages.export.gguf import import_gguf
from pocketlm.stages.export.llama_cpp import complete, in_a_process, start_server

_PROGRAM = "from pocketlm.stages.export.llama_cpp_speed import main; main()"
_PROGRAM_ONE = "from pocketlm.stages.export.llama_cpp_speed import main_one; main_one()"
_LONGEST_S = 60.0  # of repeated rounds: a large child is timed less often


@dataclass(frozen=True, kw_only=True)
class SpeedJob:
    """Files to time, each with its prompt."""

    models: list[str]
    prompts: list[list[int]]
    new_tokens: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class FileSpeed:
    """One file in its runtime, one sequence at a time, on one thread; the best of the rounds."""

    load_s: float
    peak_bytes: int
    """What the process grew by, loading and generating."""
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


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


def measure_file(path: Path, prompt: list[int], *, new_tokens: int, rounds: int) -> FileSpeed:
    """Load `path` in a fresh llama.cpp and time `rounds` answers after one to warm up.

    Raises `StageError` when llama.cpp cannot load the file.
    """
    job = SpeedJob(models=[str(path)], prompts=[prompt], new_tokens=new_tokens, rounds=rounds)
    return FileSpeed(**in_a_process(_PROGRAM_ONE, asdict(job), path.name))


def main_one() -> None:
    """The other process of `measure_file`."""
    job = SpeedJob(**json.load(sys.stdin))
    prompt, new_tokens = job.prompts[0], job.new_tokens
    import xllamacpp  # noqa: F401  # its own code is no memory of the file's

    before, started = _peak_bytes(), time.perf_counter()
    server = start_server(job.models[0], len(prompt) + new_tokens + 1, cache="F16")
    load_s = time.perf_counter() - started
    _time_once(server, prompt, new_tokens)
    seconds = []
    began = time.perf_counter()
    for _ in range(job.rounds):
        seconds.append(_time_once(server, prompt, new_tokens))
        if time.perf_counter() - began > _LONGEST_S:
            break
    speed = FileSpeed(
        load_s=load_s,
        peak_bytes=_peak_bytes() - before,
        prefill_tokens_per_s=len(prompt) / min(first for first, _ in seconds),
        # The first new token comes out of the prompt's own pass.
        decode_tokens_per_s=(new_tokens - 1) / min(others for _, others in seconds),
    )
    Path(sys.argv[1]).write_text(json.dumps(asdict(speed)), encoding="utf-8")


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


def _peak_bytes() -> int:
    """Most memory this process ever held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would answer with the parent's, whose process this was first
        (peak,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return 1024 * int(peak.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
