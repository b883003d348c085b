"""Trainings in processes of their own, to be killed, stopped and joined into teams.

    python driver.py '{"parent": FOLDER, "jobs": [{"folder": ..., "ranks": 2}, ...]}'

Everything is imported once; each job is forked from here, before anything computed, and leaves
`result.npz` in its folder. Prints the exit status of each, negative for a signal.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import PocketLMError
from pocketlm.model.checkpoint import load_child
from pocketlm.stages.train import checkpoint, train
from pocketlm.stages.train.distributed import joined
from pocketlm.stages.train.step import Step

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "keep_fraction": 0.5,
    "seq_len": 16,
    "batch_tokens": 64,
    "learning_rate": 1e-2,
    "dtype": "float32",
    "checkpoint_seconds": 1e-9,
}
NUM_BLOCKS = 41  # ten steps of four, then one of one, in which a second process has nothing


def blocks() -> Blocks:
    """A text that repeats itself with errors."""
    rng = np.random.default_rng(0)
    tokens = np.tile(np.arange(40), 32)[: NUM_BLOCKS * 16 + 1]
    wrong = rng.random(tokens.size) < np.linspace(0, 0.5, tokens.size)
    tokens[wrong] = rng.integers(0, 400, wrong.sum())
    return Blocks(tokens.astype(np.uint16), 16)


class Doom:
    """Counts the moments at which a kill would hurt, and kills at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.count, self._kill_at = 0, kill_at
        for owner, name in (
            (Step, "update"),
            (checkpoint, "sync"),
            (safetensors.torch, "save_file"),
            (os, "rename"),
            (shutil, "rmtree"),
        ):
            setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, function: Any, name: str) -> Any:
        def watched(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            doomed = self.count == self._kill_at
            if doomed and name != "save_file":
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*arguments, **named)
            if doomed:  # half of the file is there
                os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return watched


def stop_at(step: int) -> None:
    """A SIGTERM to this process alone in the middle of that step."""
    update, steps = Step.update, []

    def signalled(self: Step, *arguments: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *arguments, **named)

    Step.update = signalled  # type: ignore[method-assign]  # this process ends with the job


def stop_in_compile() -> None:
    """A SIGTERM to this process as it first waits for the C++ compiler."""
    run, seen = subprocess.run, []

    def signalled(command: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(command, list) and "-shared" in command and not seen:
            seen.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return run(command, *arguments, **named)

    subprocess.run = signalled  # type: ignore[assignment]  # this process ends with the job


def work(parent: Path, job: dict[str, Any]) -> None:
    """One training, as one of its processes."""
    folder, rank = Path(job["folder"]), int(os.environ.get("RANK", "0"))
    doom = Doom(job.get("kill_at"))
    if "stop_at" in job and rank == job["ranks"] - 1:
        stop_at(job["stop_at"])
    if job.get("stop_in_compile"):
        stop_in_compile()
    rng = np.random.default_rng(7)
    settings = {**SETTINGS, **job.get("changes", {})}
    found = train(load_child(parent), blocks(), rng=rng, checkpoints=folder / "resume", **settings)
    if rank == 0:
        np.savez(
            folder / "result.npz",
            weights=np.concatenate([t.numpy().ravel() for t in found.child.tensors.values()]),
            ledger_N=found.ledger_N,
            losses=[row["loss"] for row in found.log],
            effective_sizes=found.effective_sizes,
            moments=doom.count,
        )


def fork(parent: Path, job: dict[str, Any], environment: dict[str, str]) -> int:
    """Start one process of a job; its number."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    status = 1
    try:
        if environment:
            with joined():
                work(parent, job)
        else:
            work(parent, job)
        status = 0
    except PocketLMError as error:
        print(error, file=sys.stderr)
        status = error.exit_code
    except BaseException:  # a fork must not fall back into its parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(parent: Path, job: dict[str, Any]) -> list[int]:
    """All processes of a job, to their end; the exit status of each."""
    if "before" in job:
        subprocess.run(job["before"], check=True)
    Path(job["folder"]).mkdir(exist_ok=True)
    ranks = job.get("ranks", 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    team = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    children = [fork(parent, job, team | number if ranks > 1 else {}) for number in numbers]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps([run(Path(asked["parent"]), job) for job in asked["jobs"]]))
