"""The log as it grows: one line a row, through kills too; what is measured changes no number."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError, StageError
from pocketlm.hardware import Hardware
from pocketlm.method import Method
from pocketlm.model.child import Child
from pocketlm.progress import SilentProgress
from pocketlm.stages.train import Trained, meter, sinks, train
from pocketlm.stages.train.loop import Learner
from pocketlm.stages.train.meter import Meter, shown
from pocketlm.stages.train.rows import LOG

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "keep_fraction": 0.5,
    "seq_len": 16,
    "batch_tokens": 128,
    "learning_rate": 1e-2,
    "checkpoint_seconds": 1e9,
}
MEASURED = ("seconds", "tokens_per_s", "mfu", "memory_bytes", "eta_seconds")


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    tokens = np.random.default_rng(0).integers(0, 400, 40 * 16 + 1)
    return Blocks(tokens.astype(np.uint16), 16, 3.5)


def run(child: Child, blocks: Blocks, checkpoints: Path | None = None, **changes: Any) -> Trained:
    rng = np.random.default_rng(7)
    return train(child, blocks, rng=rng, checkpoints=checkpoints, **{**SETTINGS, **changes})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def decided(rows: Any) -> list[dict[str, Any]]:
    """Rows without what was measured."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    update = Learner._update

    def killed(self: Learner, block_B: Any) -> None:
        if self._step == step:
            monkeypatch.undo()
            raise KeyboardInterrupt
        update(self, block_B)

    monkeypatch.setattr(Learner, "_update", killed)


def test_rows_say_what_was_read_and_how_fast(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_YOUNG_SECONDS", 0.0)
    monkeypatch.setattr(meter, "_PEAK_SECONDS", 0.0)
    trained = run(child, blocks, tmp_path)
    assert [row["step"] for row in trained.log] == list(range(1, 9))
    assert [row["round"] for row in trained.log] == [1] * 5 + [2] * 3
    assert lines(tmp_path) == list(trained.log)
    for row in trained.log:
        assert row["bits_per_byte"] == pytest.approx(row["loss"] / math.log(2) / 3.5, rel=0.02)
        assert 0 < row["mfu"] < 2
        assert row["tokens_per_s"] > 0
        assert row["memory_bytes"] > 2**26
    assert trained.log[4]["bytes"] == pytest.approx(40 * 16 * 3.5, abs=40)
    assert trained.log[-1]["bytes"] == trained.num_bytes
    assert trained.log[-1]["eta_seconds"] == 0 < trained.log[0]["eta_seconds"]


def test_a_killed_run_has_every_row_once(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows written after the last checkpoint are made again; before the kill they can be read."""
    whole = run(child, blocks)
    killed_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run(child, blocks, tmp_path)
    assert [row["step"] for row in lines(tmp_path)] == list(range(1, 8))
    saved = {int(path.name[5:]) for path in tmp_path.glob("step-*")}
    assert saved == {5}  # after the first round and its draw
    assert decided(run(child, blocks, tmp_path).log) == decided(whole.log)
    assert decided(lines(tmp_path)) == decided(whole.log)


def test_a_log_that_cannot_grow_ends_the_run(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(child, blocks, tmp_path)
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).mkdir()
    monkeypatch.setattr("pocketlm.stages.train.rows.write_atomically", lambda *_: None)
    with pytest.raises(StageError, match="step 1 could not be written"):
        run(child, blocks, tmp_path)


def test_mfu_is_needed_over_possible(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred tokens in two seconds; unknown while the run is young."""
    monkeypatch.setattr(meter, "matmul_rate", lambda hardware: 1e9)
    measured = Meter(child.shape, 16, Hardware("cpu", "float32"), num_processes=2)
    measured.add(60, 1.5)
    measured.add(40, 0.5)
    row = measured.row(tokens_left=500)
    assert (row["tokens_per_s"], row["eta_seconds"], row["mfu"]) == (50.0, 10.0, None)
    measured.add(100, 4.0)
    flops = meter.training_flops_per_token(child.shape, 16)
    assert measured.row(0)["mfu"] == pytest.approx(25 * flops / 2e9, abs=1e-4)
    assert measured.row(0)["tokens_per_s"] is None  # no step since


def test_matmul_rate_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_SIDE", {"cpu": 64})
    for dtype in ("float32", "bfloat16"):
        assert 1e6 < meter.matmul_rate(Hardware("cpu", dtype), 0.0) < 1e15


def test_the_bar_shows_a_row_in_a_few_words() -> None:
    row = {"loss": 3.21449, "tokens_per_s": 12345.6, "mfu": 0.416, "memory_bytes": 1_230_000_000}
    assert shown(row) == "loss 3.214  12.3k tok/s  MFU 42%  1.23 GB"
    assert shown({"tokens_per_s": None, "mfu": None, "memory_bytes": 5_000_000}) == "5 MB"
    assert shown({"step": 3, "loss": 1.0}) == "loss 1.000"


class Fake:
    """A sink that remembers, and fails at one step."""

    def __init__(self, fails_at: int) -> None:
        self.steps: list[int] = []
        self.closed, self._fails_at = 0, fails_at

    def add(self, row: Mapping[str, Any]) -> None:
        if row["step"] == self._fails_at:
            raise ConnectionError("gone")
        self.steps.append(row["step"])

    def close(self) -> None:
        self.closed += 1


class Warned(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_sinks_get_every_row_and_none_stops_the_run(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, progress = Fake(0), Fake(3), Warned()
    table = {"good": Method(lambda *_: good, paper=""), "bad": Method(lambda *_: bad, paper="")}
    monkeypatch.setattr("pocketlm.stages.train.rows.SINKS", table)
    monkeypatch.setattr("pocketlm.stages.train.rows.check_installed", lambda names: None)
    trained = run(child, blocks, tmp_path, sinks=["good", "bad"], rounds=1, progress=progress)
    assert decided(trained.log) == decided(run(child, blocks, rounds=1).log)
    assert (good.steps, good.closed) == ([1, 2, 3, 4, 5], 1)
    assert (bad.steps, bad.closed) == ([1, 2], 0)
    assert progress.texts == ["[train] sinks: bad failed and is left out (gone)"]


def test_sinks_that_cannot_be_are_refused(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="did you mean 'tensorboard'"):
        run(child, blocks, tmp_path, sinks=["tensorbord"])
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'pocketlm\[track\]'"):
        run(child, blocks, tmp_path, sinks=["tensorboard"])
    monkeypatch.setattr(sinks, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match="no folder"):
        run(child, blocks, sinks=["tensorboard"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_has_each_step_once_after_a_kill(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run(child, blocks, tmp_path, sinks=["tensorboard"])
    trained = run(child, blocks, tmp_path, sinks=["tensorboard"])
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = {event.step: event.value for event in found.Scalars("train/loss")}
    assert [event.step for event in found.Scalars("train/loss")] == list(range(1, 9))
    assert list(shown.values()) == pytest.approx([row["loss"] for row in trained.log])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of trackio's own imports
def test_trackio_has_each_step_once_after_a_kill(
    child: Child,
    blocks: Blocks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the one database of this machine, with nothing said on stdout or to any server."""
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "home"))  # read as it is imported
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/somewhere")
    home = pytest.importorskip("trackio.utils", exc_type=ImportError).TRACKIO_DIR
    killed_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run(child, blocks, tmp_path, sinks=["trackio"])
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/somewhere")
    trained = run(child, blocks, tmp_path, sinks=["trackio"])
    with sqlite3.connect(home / "pocketlm.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == list(range(1, 9))
    assert [json.loads(row)["loss"] for _, row in rows] == [row["loss"] for row in trained.log]
    assert capsys.readouterr().out == ""
