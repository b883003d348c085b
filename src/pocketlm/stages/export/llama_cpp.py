"""The real llama.cpp, in a process of its own: what it reads and what it writes.

The process runs llama.cpp's server (package `xllamacpp`, part of the gguf extra) on the loopback
interface, so its native logs, threads and crashes stay out of ours.
"""

import json
import math
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import StageError

_PROGRAM = "from pocketlm.stages.export.llama_cpp import main; main()"
_LONGEST_S = 600


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to ask of one file."""

    model: str
    prompts: list[list[int]]
    new_tokens: int
    texts: list[str]
    likeliest: int = 0
    """Ids whose probability is asked at each new token."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What llama.cpp made of it."""

    continuations: list[list[int]]
    """Greedy tokens after each prompt, the end token included where one was picked."""
    ids: list[list[int] | None]
    """Tokens of each text without any added; None where llama.cpp failed on the text."""
    framed_ids: list[list[int] | None]
    """The same with the tokens llama.cpp itself adds."""
    likeliest: list[list[list[tuple[int, float]]]]
    """Of each new token of each prompt: the likeliest ids with their probabilities."""


def ask_llama_cpp(job: Job) -> Answer:
    """Run `job` in a fresh process; raises `StageError` when llama.cpp cannot load the file."""
    return Answer(**in_a_process(_PROGRAM, asdict(job), Path(job.model).name))


def in_a_process(program: str, job: Mapping[str, Any], what: str) -> Any:
    """What `program` makes of `job`: it reads JSON from standard input and writes JSON to the file
    named as its argument. `what` is in the files, for a `StageError` when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "answer.json"
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", program, str(result)],
                input=json.dumps(job),
                capture_output=True,
                text=True,
                timeout=_LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StageError(f"llama.cpp took over {_LONGEST_S} s with {what}") from None
        if done.returncode != 0 or not result.exists():
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise StageError(f"llama.cpp does not run {what}: {last}")
        return json.loads(result.read_text(encoding="utf-8"))


def main() -> None:
    """The other process: a job on standard input, the answer to the file named as argument."""
    job = Job(**json.load(sys.stdin))
    positions = max(map(len, job.prompts), default=0) + job.new_tokens + 1
    # The check is exact only where keys and values are not rounded.
    server = start_server(job.model, positions, cache="F32")
    asked = {"n_probs": job.likeliest} if job.likeliest else {}
    written = [complete(server, prompt, job.new_tokens, **asked) for prompt in job.prompts]
    answer = Answer(
        continuations=[reply["tokens"] for reply in written],
        ids=[_tokenize(server, text, add_special=False) for text in job.texts],
        framed_ids=[_tokenize(server, text, add_special=True) for text in job.texts],
        likeliest=[_likeliest(reply) for reply in written],
    )
    Path(sys.argv[1]).write_text(json.dumps(asdict(answer)), encoding="utf-8")


def start_server(model: str, positions: int, *, cache: str) -> Any:
    """One sequence of `positions` at a time on one CPU thread, keys and values kept as `cache`."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = positions
    params.n_parallel, params.n_gpu_layers = 1, 0
    # With more threads tiny matrices wait for each other, on a busy machine 1,000 times longer.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{cache}"]
    params.warmup = params.ui = params.fit_params = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def complete(server: Any, prompt: Sequence[int], new_tokens: int, **more: object) -> dict[str, Any]:
    """Greedy tokens after `prompt`, and llama.cpp's own timings; `more` goes into the request."""
    body = {
        **more,
        "prompt": list(prompt),
        "n_predict": new_tokens,
        "samplers": ["top_k"],
        "top_k": 1,
        "return_tokens": True,
        "cache_prompt": False,
    }
    return _post(server, "/completion", body)


def _likeliest(reply: Mapping[str, Any]) -> list[list[tuple[int, float]]]:
    """Before any sampling, so these are the softmax of the logits. Nothing of a reply whose text
    breaks off inside a character: llama.cpp then leaves out places, and does not say which."""
    tokens = reply.get("completion_probabilities", ())
    if [token["id"] for token in tokens] != reply["tokens"]:
        return [[] for _ in reply["tokens"]]
    return [
        [(own["id"], math.exp(own["logprob"])) for own in token["top_logprobs"]] for token in tokens
    ]


def _tokenize(server: Any, text: str, *, add_special: bool) -> list[int] | None:
    body = {"content": text, "add_special": add_special, "parse_special": False}
    try:
        tokens: list[int] = _post(server, "/tokenize", body)["tokens"]
    except urllib.error.HTTPError:
        return None
    return tokens


def _post(server: Any, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    # No proxy: the server listens on this machine only.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Content-Type": "application/json"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + path, data, headers)
    with opener.open(request) as reply:
        parsed: dict[str, Any] = json.load(reply)
    return parsed
