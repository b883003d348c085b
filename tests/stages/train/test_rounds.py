"""What later rounds read, and the losses they choose by."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import Interrupted
from pocketlm.model.child import Child
from pocketlm.progress import SILENT
from pocketlm.recipe import TrainTable
from pocketlm.stages.train import References, Trained, train
from pocketlm.stages.train.choice import Choice
from pocketlm.stages.train.draw import effective_size
from pocketlm.stages.train.loop import Learner
from pocketlm.stages.train.rounds import Round, carried, new_ledger, round_sizes
from pocketlm.stages.train.step import Step

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "keep_fraction": 0.5,
    "seq_len": 16,
    "batch_tokens": 64,
    "learning_rate": 1e-2,
    "checkpoint_seconds": 1e-9,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    """78 blocks of a text that repeats itself with errors, more of them in later blocks."""
    rng = np.random.default_rng(0)
    tokens = np.tile(np.arange(40), 32)[:1256]
    wrong = rng.random(tokens.size) < np.linspace(0, 0.5, tokens.size)
    tokens[wrong] = rng.integers(0, 400, wrong.sum())
    return Blocks(tokens.astype(np.uint16), 16)


def run(child: Child, blocks: Blocks, checkpoints: Path | None = None, **changes: Any) -> Trained:
    rng = np.random.default_rng(7)
    return train(child, blocks, rng=rng, checkpoints=checkpoints, **{**SETTINGS, **changes})


def learner_after_a_round(child: Child, blocks: Blocks, **changes: Any) -> Learner:
    table = TrainTable(**{**SETTINGS, **changes})
    learner = Learner(child, blocks, table, round_sizes(table, len(blocks)))
    learner.run_round(0, None, key=1, progress=SILENT)
    return learner


def test_hard_blocks_are_read_again_more_often(child: Child, blocks: Blocks) -> None:
    learner = learner_after_a_round(child, blocks, temperature=0.3)
    drawn_K = learner.hard_blocks(1, key=2, progress=SILENT)
    loss_N = learner.choice._frozen(SILENT, lambda: None)
    left = np.setdiff1d(np.arange(len(blocks)), drawn_K)
    assert loss_N[drawn_K].mean() > loss_N[left].mean() + 0.1


def test_batches_are_drawn_whole(child: Child, blocks: Blocks) -> None:
    """As the first round had them; the last is short. The odds follow the batches' means."""
    learner = learner_after_a_round(child, blocks, unit="batch")
    drawn_K = learner.hard_blocks(1, key=2, progress=SILENT)
    first = Round(size=78, key=1, first_step=0, batch_size=4)
    batches = [first.batch(step) for step in range(first.num_steps)]
    whole = [np.isin(batch_B, drawn_K).mean() for batch_B in batches]
    assert len(batches) == 20
    assert batches[-1].size == 2
    assert sorted(whole) == [0.0] * 10 + [1.0] * 10
    loss_N = np.random.default_rng(0).normal(size=78).astype(np.float32)
    expected = [loss_N[batch_B].mean() for batch_B in batches]
    np.testing.assert_allclose(first.batch_means(loss_N), expected, rtol=1e-5)
    now_N = learner.choice._frozen(SILENT, lambda: None)
    expected_size = effective_size(first.batch_means(now_N))
    assert learner.choice.effective_sizes == [pytest.approx(expected_size)]
    assert expected_size <= 20  # batches, not blocks
    trained = run(child, blocks, unit="batch", resample="uniform")
    assert trained.effective_sizes == ()
    assert trained.num_scored == 0


def test_recorded_equals_frozen_on_a_frozen_child(child: Child, blocks: Blocks) -> None:
    """And then both draw the same blocks."""
    still = {"learning_rate": 1e-12, "losses": "recorded"}
    learner = learner_after_a_round(child, blocks, **still)
    recorded_N = learner.choice._recorded()
    np.testing.assert_allclose(recorded_N, learner.choice._frozen(SILENT, lambda: None), rtol=1e-4)
    frozen = learner_after_a_round(child, blocks, learning_rate=1e-12)
    drawn_K = learner.hard_blocks(1, key=2, progress=SILENT)
    assert (drawn_K == frozen.hard_blocks(1, key=2, progress=SILENT)).all()


def test_the_trend_of_learning_is_taken_out(child: Child, blocks: Blocks) -> None:
    """Early blocks look hard in the ledger; carried to the present they do so much less."""
    learner = learner_after_a_round(child, blocks, losses="recorded")
    step_N = np.empty(78)
    for position_B, block_B in learner.choice._rounds[0].chunks():
        step_N[block_B] = position_B // 4
    raw_N, now_N = learner.choice.ledger_N, learner.choice._recorded()
    frozen_N = learner.choice._frozen(SILENT, lambda: None)
    raw, now = (np.corrcoef(step_N, values)[0, 1] for values in (raw_N, now_N))
    assert raw < -0.6
    assert abs(now) < abs(raw) / 2
    assert np.corrcoef(now_N, frozen_N)[0, 1] > np.corrcoef(raw_N, frozen_N)[0, 1]


def test_carrying_by_hand() -> None:
    """Two rounds; a block read twice counts from its last step, one never read as average."""
    ledger_N = np.array([5.0, 4.0, 3.0, np.nan], np.float32)
    rounds = [
        Round(size=4, key=0, first_step=0, batch_size=1),
        Round(size=1, key=0, first_step=4, batch_size=1, chosen_K=np.array([2], np.uint32)),
    ]
    order = [int(rounds[0].batch(step)[0]) for step in range(4)]
    found_N = carried(ledger_N, rounds, lambda step_B: 10.0 - step_B, 5)
    expected = ledger_N + np.array([10 - 5 - (10 - order.index(n)) for n in range(4)])
    expected[2] = 3.0 + (10 - 5) - (10 - 4)
    expected[3] = expected[:3].mean()
    np.testing.assert_allclose(found_N, expected)


def test_excess_loss_is_above_the_parents(child: Child, blocks: Blocks) -> None:
    """An equal parent everywhere changes no draw; one that knows what the child knows, all."""
    plain = run(child, blocks)
    flat = run(child, blocks, resample="excess-loss", references=_parent(np.full(78, 2.0)))
    assert np.array_equal(plain.ledger_N, flat.ledger_N)
    assert (flat.num_scored, flat.num_parent_scored) == (78, 78)
    steep = _parent(np.where(np.arange(78) < 39, 100.0, 0.0))
    learner = learner_after_a_round(child, blocks)
    table = TrainTable(**SETTINGS, resample="excess-loss")
    choice = Choice(blocks, table, steep, learner._frozen_losses)
    choice.begin(learner.choice._rounds[0], [0, 20, 30])
    choice.draw(1, key=2, progress=SILENT, pause=lambda: None)
    assert choice.blocks(1).tolist() == list(range(39, 78))


def _parent(loss_N: np.ndarray) -> References:
    return References(parent_losses=lambda: lambda block_B: loss_N[block_B])


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": "forgetting", "unit": "batch", "probe_parts": 2, "probe_times": 5},
        {"losses": "recorded", "rounds": 3, "round_schedule": "rewarm"},
    ],
)
def test_kills_change_nothing(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any
) -> None:
    """In a round, in the scoring pass (where there is one), in the next round."""
    whole = run(child, blocks, **changes)
    usual = {name: getattr(Step, name) for name in ("update", "losses")}
    calls = 0
    for limit in (9, 21, 17):
        calls = 0

        def killed(self: Step, *batch: Any, name: str, limit: int = limit, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return usual[name](self, *batch, **named)

        for name in usual:
            monkeypatch.setattr(Step, name, partialmethod(killed, name=name))
        with pytest.raises(KeyboardInterrupt):
            run(child, blocks, tmp_path, **changes)
    for name, function in usual.items():
        monkeypatch.setattr(Step, name, function)
    resumed = run(child, blocks, tmp_path, **changes)
    assert np.array_equal(resumed.ledger_N, whole.ledger_N)
    assert all(torch.equal(resumed.child.tensors[n], t) for n, t in whole.child.tensors.items())
    assert resumed.effective_sizes == whole.effective_sizes
    assert resumed.probes == whole.probes
    assert resumed.num_scored == whole.num_scored


def test_a_signal_in_the_scoring_pass_keeps_what_is_scored(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    whole, frozen, scored = run(child, blocks), Learner._frozen_losses, []

    def signalled(self: Learner, blocks: Blocks, block_B: Any) -> Any:
        scored.append(len(block_B))
        if len(scored) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return frozen(self, blocks, block_B)

    monkeypatch.setattr(Learner, "_frozen_losses", signalled)
    with pytest.raises(Interrupted, match="while scoring"):
        run(child, blocks, tmp_path, checkpoint_seconds=1e9)
    resumed = run(child, blocks, tmp_path)
    assert sum(scored) == 78  # nothing twice
    assert np.array_equal(resumed.ledger_N, whole.ledger_N)


def test_a_signal_in_the_parents_pass_keeps_both_passes(
    child: Child, blocks: Blocks, tmp_path: Path
) -> None:
    """The child's, which was whole, and what the parent had scored."""
    import os
    import signal

    opened, scored = [], []

    def open_parent() -> Any:
        opened.append(len(scored))

        def losses(block_B: Any) -> Any:
            scored.append(len(block_B))
            if len(scored) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return np.full(len(block_B), 3.0, np.float32)

        return losses

    references = References(parent_losses=open_parent)
    changes = {"resample": "excess-loss", "checkpoint_seconds": 1e9, "references": references}
    with pytest.raises(Interrupted, match="while scoring"):
        run(child, blocks, tmp_path, **changes)
    resumed = run(child, blocks, tmp_path, **changes)
    assert opened == [0, 3]
    assert sum(scored) == 78
    assert resumed.num_scored == resumed.num_parent_scored == 78
    whole = run(child, blocks, **changes)
    assert np.array_equal(resumed.ledger_N, whole.ledger_N)


def test_probes_see_learning_and_leave_no_trace(child: Child, blocks: Blocks) -> None:
    held_out = Blocks(np.tile(np.arange(40), 8).astype(np.uint16), 16)
    changes = {"probe_parts": 3, "probe_blocks": 4, "probe_times": 4}
    plain = run(child, blocks)
    probed = run(child, blocks, references=References(held_out=held_out), **changes)
    assert np.array_equal(plain.ledger_N, probed.ledger_N)
    assert plain.probes == ()
    steps = [row["step"] for row in probed.probes]
    assert steps == sorted({0, 1, 2, 4, 8, 16, 22, 30, 20, *probed.part_steps, *steps})
    assert len(probed.part_steps) == 3
    assert set(probed.probes[0]) == {"step", "tokens", "yardstick", "part_1", "part_2", "part_3"}
    assert probed.probes[-1]["yardstick"] < probed.probes[0]["yardstick"] - 1
    assert probed.num_scored == 78 + len(steps) * (8 + 3 * 4)
    # Just before its steps a part has the loss it is then trained with.
    first = Round(size=78, key=_second_key(), first_step=0, batch_size=4)
    start = int((0 + 0.5) / 3 * 78)
    part_B = first.at(np.arange(start, start + 4))
    before = next(row for row in probed.probes if row["step"] == probed.part_steps[0])
    once = run(child, blocks, rounds=1, **changes)
    assert before["part_1"] == pytest.approx(float(once.ledger_N[part_B].mean()), rel=0.2)


def _second_key() -> int:
    return int(np.random.default_rng(7).integers(2**63, size=4)[1])


def test_long_ledgers_take_two_bytes(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = run(child, blocks, resample="uniform")
    monkeypatch.setattr("pocketlm.stages.train.rounds._LONG", 78)
    assert new_ledger(77).dtype == np.float32
    halved = run(child, blocks, tmp_path, resample="uniform")
    assert halved.ledger_N.dtype == np.float16
    np.testing.assert_allclose(halved.ledger_N, exact.ledger_N, rtol=2**-11)
    again = run(child, blocks, tmp_path, resample="uniform")
    assert np.array_equal(again.ledger_N, halved.ledger_N)
