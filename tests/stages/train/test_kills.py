"""Killed, stopped, out of room: the next start goes on as if nothing had been."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import Interrupted, StageError
from pocketlm.model.child import Child
from pocketlm.progress import SilentProgress
from pocketlm.stages.train import Trained, train
from pocketlm.stages.train.step import Outcome, Step

DRIVER = Path(__file__).with_name("driver.py")
SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "keep_fraction": 0.5,
    "seq_len": 16,
    "batch_tokens": 64,
    "learning_rate": 1e-2,
    "checkpoint_seconds": 1e-9,
}


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random(640) < 0.3, rng.integers(0, 400, 640), np.arange(640) % 40)
    return Blocks(tokens.astype(np.uint16), 16)


def run(child: Child, blocks: Blocks, checkpoints: Path | None = None, **changes: Any) -> Trained:
    rng = np.random.default_rng(7)
    return train(child, blocks, rng=rng, checkpoints=checkpoints, **{**SETTINGS, **changes})


def equal(one: Trained, other: Trained) -> bool:
    """Weights, ledger and losses, to the bit."""
    tensors = zip(one.child.tensors.values(), other.child.tensors.values(), strict=True)
    return (
        all(torch.equal(x, y) for x, y in tensors)
        and np.array_equal(one.ledger_N, other.ledger_N, equal_nan=True)
        and [row["loss"] for row in one.log] == [row["loss"] for row in other.log]
    )


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_anywhere_inside_saves_too(tiny_parent: Path, tmp_path: Path, kills: int) -> None:
    """SIGKILL again and again, at any update, file written, synced, renamed or removed."""
    rng = np.random.default_rng(kills)
    moments = 240  # of the whole run, about
    jobs = [{"folder": str(tmp_path / "killed"), "kill_at": int(at)}
            for at in rng.integers(1, 2 * moments // (kills + 1), size=kills)]  # fmt: skip
    jobs += [{"folder": str(tmp_path / "killed")}, {"folder": str(tmp_path / "whole")}]
    statuses, said = driven(tiny_parent, jobs, {})
    assert statuses.count(-signal.SIGKILL) >= kills // 2, said
    assert statuses[-2:] == [0, 0]
    killed, whole = (np.load(tmp_path / name / "result.npz") for name in ("killed", "whole"))
    assert abs(int(whole["moments"]) - moments) < 40
    for name in ("weights", "ledger_N", "losses", "effective_sizes"):
        assert np.array_equal(killed[name], whole[name]), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_stopped_while_compiling_and_killed(tiny_parent: Path, tmp_path: Path) -> None:
    """SIGTERM while g++ works is obeyed after that step, with a checkpoint; killed and resumed, the
    compiled run ends with the bits of an undisturbed one."""
    jobs = [{"folder": str(tmp_path / "killed")} | how for how in (
        {"stop_in_compile": True}, {"kill_at": 70}, {})]  # fmt: skip
    jobs.append({"folder": str(tmp_path / "whole")})
    for job in jobs:
        job["changes"] = {"compile": True}
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
                   "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # fmt: skip
    statuses, said = driven(tiny_parent, jobs, environment)
    assert statuses == [75, -signal.SIGKILL, 0, 0], said
    assert "stopped at step 1;" in said
    killed, whole = (np.load(tmp_path / name / "result.npz") for name in ("killed", "whole"))
    for name in ("weights", "ledger_N", "losses", "effective_sizes"):
        assert np.array_equal(killed[name], whole[name]), name


def test_a_full_disk_of_its_own_loses_nothing(tiny_parent: Path, tmp_path: Path) -> None:
    """A file system that is full after a few steps, and then larger: it goes on where it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(disk)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, *mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    larger = ["mount", "-o", "remount,size=64m", str(disk)]
    kept = ["cp", str(disk / "run" / "result.npz"), str(tmp_path)]
    jobs = [
        {"folder": str(disk / "run"), "before": mount},
        {"folder": str(disk / "run"), "before": larger},
        {"folder": str(tmp_path / "whole"), "before": kept},
    ]
    statuses, said = driven(tiny_parent, jobs, {}, inside)
    assert statuses == [1, 0, 0], said
    assert "the last checkpoint is kept" in said
    filled, whole = np.load(tmp_path / "result.npz"), np.load(tmp_path / "whole" / "result.npz")
    for name in ("weights", "ledger_N", "losses", "effective_sizes"):
        assert np.array_equal(filled[name], whole[name]), name


def driven(
    parent: Path, jobs: list[dict[str, Any]], environment: dict[str, str], inside: Any = ()
) -> tuple[list[int], str]:
    """Jobs one after the other in a process of their own; their statuses, and what was said."""
    asked = json.dumps({"parent": str(parent), "jobs": jobs})
    done = subprocess.run(
        [*inside, sys.executable, str(DRIVER), asked],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | environment,
    )
    assert done.stdout, done.stderr
    return [status for (status,) in json.loads(done.stdout)], done.stderr


def test_a_signal_while_checking_or_saving(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is obeyed with the step's checkpoint, and nothing shows."""
    import safetensors.torch

    whole, save_file = run(child, blocks), safetensors.torch.save_file
    rng = np.random.default_rng(7)
    checks = {"bits_per_byte": lambda network: os.kill(os.getpid(), signal.SIGTERM) or 1.0}
    with pytest.raises(Interrupted, match="step 8;"):  # of 15
        train(child, blocks, rng=rng, checkpoints=tmp_path, check_at=(0.5,), **checks, **SETTINGS)
    assert (tmp_path / "step-000000008" / "manifest.json").is_file()
    saves: list[int] = []

    def signalled(*arguments: Any, **named: Any) -> None:
        saves.append(1)
        if len(saves) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save_file(*arguments, **named)

    monkeypatch.setattr(safetensors.torch, "save_file", signalled)
    with pytest.raises(Interrupted, match="after step 10;"):  # the last of a round
        run(child, blocks, tmp_path, check_at=(0.5,))
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    assert equal(run(child, blocks, tmp_path, check_at=(0.5,)), whole)


def test_a_full_disk_loses_nothing(child: Child, blocks: Blocks, tmp_path: Path) -> None:
    """No file may grow beyond 20 kB from the fifth step on, until there is room again."""
    whole, update, steps = run(child, blocks), Step.update, []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(self: Step, *arguments: Any, **named: Any) -> Outcome:
        steps.append(1)
        if len(steps) == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return update(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "update", filling)
        try:
            with pytest.raises(StageError, match="step 5 could not be written"):
                run(child, blocks, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    names = sorted(path.name for path in tmp_path.glob("step-*"))
    assert names == ["step-000000003", "step-000000004"]
    assert equal(run(child, blocks, tmp_path), whole)


class Warned(SilentProgress):
    """Remembers what went wrong."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_the_one_before_a_damaged_checkpoint_is_used_and_that_is_said(
    child: Child, blocks: Blocks, tmp_path: Path
) -> None:
    whole, progress = run(child, blocks, tmp_path), Warned()
    path = tmp_path / "step-000000015" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    again = run(child, blocks, tmp_path, progress=progress)
    assert again.passed_over == ("step-000000015",)
    assert len(progress.texts) == 1
    assert "step-000000015" in progress.texts[0]
    assert "step 14" in progress.texts[0]
    assert equal(again, whole)


def test_the_best_checkpoint_stays(child: Child, blocks: Blocks, tmp_path: Path) -> None:
    """Beside the last two; the child as it was given is not among them."""
    scores = iter([1.0, 3.0, 2.0, 2.5, 2.5])
    run(
        child,
        blocks,
        tmp_path,
        check_at=(0.0, 0.2, 0.4, 0.6, 1.0),
        bits_per_byte=lambda network: next(scores),
        checkpoint_seconds=1e9,
    )
    steps = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.glob("step-*"))
    assert steps == [6, 10, 15]


def test_a_step_left_out_is_written_with_its_blocks(
    child: Child, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite gradient in step 3: no update, no loss in the ledger, none in the log."""
    update, weights = Step.update, []

    def broken(self: Step, *arguments: Any, **named: Any) -> Outcome:
        parameter = self.network.get_input_embeddings().weight
        weights.append(parameter.detach().clone())
        if len(weights) != 4:
            return update(self, *arguments, **named)
        handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
        outcome = update(self, *arguments, **named)
        handle.remove()
        return outcome

    monkeypatch.setattr(Step, "update", broken)
    trained = run(child, blocks, rounds=1)
    (left_out,) = trained.skipped
    assert left_out["step"] == 3
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[4], weights[5])
    unknown_N = np.isnan(trained.ledger_N)
    assert np.flatnonzero(unknown_N).tolist() == sorted(left_out["blocks"])
    assert [row["step"] for row in trained.log if "loss" not in row] == [4]
    assert all(torch.isfinite(tensor).all() for tensor in trained.child.tensors.values())


def test_a_signal_nobody_read_is_sent_again() -> None:
    """Unless the block ended with an error, which then is what the user sees."""
    from pocketlm.stages.train.signals import stop_requested

    def block(error: Exception | None) -> None:
        with stop_requested() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop()
            if error:
                raise error

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            block(None)
        with pytest.raises(Interrupted):
            block(Interrupted())
    finally:
        signal.signal(signal.SIGINT, before)
