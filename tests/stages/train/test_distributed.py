"""Several processes: the losses of one, resumed by another number of them, stopped together."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.cli import run as command_line
from pocketlm.stages.train.distributed import ALONE, Team

DRIVER = Path(__file__).with_name("driver.py")
Result = dict[str, "np.ndarray[Any, Any]"]


def drive(parent: Path, jobs: list[dict[str, Any]]) -> list[list[int]]:
    """Exit statuses of the jobs' processes."""
    asked = json.dumps({"parent": str(parent), "jobs": jobs})
    done = subprocess.run(
        [sys.executable, str(DRIVER), asked], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    statuses: list[list[int]] = json.loads(done.stdout)
    return statuses


@pytest.fixture(scope="module")
def results(
    tiny_parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[list[int]], Result]]:
    """`1`, `2`: whole runs by one and two processes; `2 to 1`: stopped at step 6 and resumed."""
    folder = tmp_path_factory.mktemp("teams")
    halves: dict[str, list[dict[str, Any]]] = {
        "1": [{"ranks": 1}],
        "2": [{"ranks": 2}],
        "2 to 1": [{"ranks": 2, "stop_at": 6}, {"ranks": 1}],
        "1 to 2": [{"ranks": 1, "stop_at": 6}, {"ranks": 2}],
        "2 to 2": [{"ranks": 2, "stop_at": 6}, {"ranks": 2}],
        "2, a block at a time": [{"ranks": 2, "changes": {"micro_batch_tokens": 16}}],
    }
    jobs = [{"folder": str(folder / name), **job} for name, two in halves.items() for job in two]
    statuses = iter(drive(tiny_parent, jobs))
    return {
        name: ([next(statuses) for _ in two], dict(np.load(folder / name / "result.npz")))
        for name, two in halves.items()
    }


@pytest.mark.parametrize("how", ["2", "2 to 1", "1 to 2", "2, a block at a time"])
def test_two_processes_are_one(results: dict[str, Any], how: str) -> None:
    """Losses of every step and block, through a pass of scoring and a draw, within 1e-5."""
    statuses, found = results[how]
    assert statuses[-1] in ([0], [0, 0])
    _, alone = results["1"]
    assert len(found["losses"]) == 16
    for name in ("losses", "ledger_N"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, err_msg=name)


def test_a_signal_to_one_stops_all_and_resumes_to_the_bit(results: dict[str, Any]) -> None:
    statuses, found = results["2 to 2"]
    assert statuses == [[75, 75], [0, 0]]
    _, whole = results["2"]
    for name in ("weights", "ledger_N", "losses", "effective_sizes"):
        assert np.array_equal(found[name], whole[name]), name


def test_parts_are_all_blocks_once_and_in_order() -> None:
    for num_blocks in (1, 2, 7, 8, 9):
        parts = [Team(rank, 4).part(np.arange(num_blocks)) for rank in range(4)]
        assert np.concatenate(parts).tolist() == list(range(num_blocks))
        assert max(part.size for part in parts) == -(-num_blocks // 4)


def test_alone_nothing_is_sent() -> None:
    assert Team.current() is ALONE
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.of_first("mine") == "mine"
    values = torch.arange(3.0)
    assert ALONE.gather(values, 3) is values
    ALONE.wait()
    ALONE.check_same_step(3)


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The environment that torchrun gives the process of that number."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    for name, number in numbers.items():
        monkeypatch.setenv(name, str(number))


def test_earlier_stages_are_refused_with_the_command_that_makes_them(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_rank(monkeypatch, 0)
    asked = ["train", str(tiny_recipe), "--out", str(tmp_path), "--set", "train.rounds=1"]
    assert command_line(asked) == 2
    said = capsys.readouterr().err
    assert "counts is missing" in said
    assert f"pocketlm inherit {tiny_recipe} --out {tmp_path} --set train.rounds=1 first" in said
    assert not list(tmp_path.iterdir())
    assert command_line(["make", str(tiny_recipe), "--out", str(tmp_path)]) == 2
    assert "nothing else" in capsys.readouterr().err
    as_rank(monkeypatch, 1)
    assert command_line(asked) == 2
    assert capsys.readouterr().err == ""  # once a machine


@pytest.mark.slow
def test_torchrun_makes_the_artifact_once(tiny_recipe: Path, tmp_path: Path) -> None:
    """As a person does it: all before training alone, then two processes; and again, at once."""
    common = [str(tiny_recipe), "--out", str(tmp_path), "-q"]
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--nproc-per-node", "2", "-m", "pocketlm"),
    ]
    assert command_line(["inherit", *common]) == 0
    first, again = (
        subprocess.run([*torchrun, "train", *common], capture_output=True, text=True, timeout=600)
        for _ in range(2)
    )
    for done in (first, again):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("nats/token") == 1
    assert len(list(tmp_path.glob("store/train-*"))) == 1
    assert command_line(["evaluate", *common]) == 0
