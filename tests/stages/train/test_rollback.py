"""A loss that spikes: back to weights from before, the same to the bit through kills."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError, StageError
from pocketlm.model.child import Child
from pocketlm.progress import SilentProgress
from pocketlm.recipe import TrainTable
from pocketlm.stages.train import Trained, rollback, train
from pocketlm.stages.train.loop import Learner
from pocketlm.stages.train.rollback import Watch
from pocketlm.tables import build_table

SETTINGS: dict[str, Any] = {
    "rounds": 1,
    "seq_len": 8,
    "batch_tokens": 8,
    "learning_rate": 3e-3,
    "dtype": "float32",
    "checkpoint_seconds": 1e9,
    "rollback": 6,
}
STEPS = 160


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random(STEPS * 8 + 1) < 0.3, 7, np.arange(STEPS * 8 + 1) % 11)
    return Blocks(tokens.astype(np.uint16), 8)


class Warned(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def run(child: Child, blocks: Blocks, checkpoints: Path | None = None, **changes: Any) -> Trained:
    rng = np.random.default_rng(7)
    return train(child, blocks, rng=rng, checkpoints=checkpoints, **{**SETTINGS, **changes})


def broken_at(monkeypatch: pytest.MonkeyPatch, *bad: int, killed_at: int | None = None) -> None:
    """Weights are spoiled before each of the steps `bad`, whoever makes it."""
    update = Learner._update

    def spoiled(self: Learner, block_B: Any) -> None:
        if self._step == killed_at:
            raise KeyboardInterrupt
        if self._step in bad:
            with torch.no_grad():
                self._compute.network.get_input_embeddings().weight.mul_(-8)
        update(self, block_B)

    monkeypatch.setattr(Learner, "_update", spoiled)


def equal(one: Trained, other: Trained) -> bool:
    tensors = zip(one.child.tensors.values(), other.child.tensors.values(), strict=True)
    return (
        all(torch.equal(x, y) for x, y in tensors)
        and np.array_equal(one.ledger_N, other.ledger_N, equal_nan=True)
        and [row["loss"] for row in one.log] == [row["loss"] for row in other.log]
        and one.skipped == other.skipped
    )


def test_a_spike_is_undone_and_kills_change_nothing(
    child: Child, blocks: Blocks, tmp_path: Path
) -> None:
    """Broken before step 123; seen at the look after step 130; kept after step 100."""
    progress = Warned()
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, 123)
        whole = run(child, blocks, progress=progress)
    (row,) = whole.skipped
    assert (row["step"], row["until"]) == (100, 130)
    assert len(progress.texts) == 1
    assert "after step 100 again, the blocks of steps 100 to 129" in progress.texts[0]
    assert np.flatnonzero(np.isnan(whole.ledger_N)).tolist() == sorted(row["blocks"])
    losses = [row["loss"] for row in whole.log]
    assert min(losses[123:129]) > max(losses[80:120])
    assert max(losses[131:]) < min(losses[123:129])
    for killed_at in (128, 135):
        with pytest.MonkeyPatch.context() as patch:
            broken_at(patch, 123, killed_at=killed_at)
            with pytest.raises(KeyboardInterrupt):
                run(child, blocks, tmp_path, checkpoint_seconds=0.2)
    with pytest.MonkeyPatch.context() as patch:
        broken_at(patch, 123)
        assert equal(run(child, blocks, tmp_path), whole)


def test_watching_changes_nothing_where_nothing_spikes(child: Child, blocks: Blocks) -> None:
    watched = run(child, blocks)
    assert watched.skipped == ()
    assert equal(watched, run(child, blocks, rollback=False))


def test_one_spike_too_many_ends_it_with_its_blocks(
    child: Child, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "_MOST", 1)
    broken_at(monkeypatch, 123, 133)
    with pytest.raises(StageError, match=r"2th time \(blocks .* of steps 130 to 139\)"):
        run(child, blocks)


def watch(losses: list[float], limit: float = 6) -> Watch:
    compute: Any = SimpleNamespace()
    watched = Watch(limit, compute)
    for step, loss in enumerate(losses):
        watched.add(step, loss)
    return watched


def test_what_counts_as_a_spike() -> None:
    """Most of ten losses; a few wild ones, a rise within the spread or a short past do not."""
    noise = np.random.default_rng(0).normal(3, 0.1, 110)
    calm, high = noise[:100].tolist(), (noise[100:] + 1).tolist()
    assert watch(calm + high)._raised() == 10
    assert watch(calm + high[:5] + calm[:5])._raised() == 5
    assert watch(calm + [100.0] * 2 + calm[:8])._raised() == 2
    assert watch(calm + (noise[100:] + 0.2).tolist())._raised() <= 1
    assert watch(calm[:49] + high)._raised() == 0
    assert watch([2.0] * 60 + [2.0005] * 10)._raised() == 0
    assert watch(calm + high, limit=0)._losses == []


def test_a_threshold_or_false() -> None:
    assert build_table(TrainTable, {"rollback": 6}, "[train]").rollback == 6
    for wrong in (-1, True):
        with pytest.raises(RecipeError, match="false or a number of deviations, such as 6"):
            build_table(TrainTable, {"rollback": wrong}, "[train]")
