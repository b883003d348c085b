"""The loop: it learns, it is repeatable, and a resumed run equals an unbroken one bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import CorpusError, Interrupted, RecipeError, StageError
from pocketlm.model.child import Child
from pocketlm.model.loss import block_losses
from pocketlm.stages.train import Trained, automatic, loop, train
from pocketlm.stages.train.automatic import Choices
from pocketlm.stages.train.loop import Learner

SETTINGS: dict[str, Any] = {
    "rounds": 3,
    "keep_fraction": 0.5,
    "seq_len": 16,
    "batch_tokens": 64,
    "learning_rate": 1e-2,
    "checkpoint_seconds": 1e-9,  # at every row of the log
}


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    """A text that repeats itself with errors: learnable, and harder in some places."""
    rng = np.random.default_rng(0)
    tokens = np.tile(np.arange(40), 32)
    wrong = rng.random(tokens.size) < np.linspace(0, 0.5, tokens.size)
    tokens[wrong] = rng.integers(0, 400, wrong.sum())
    return Blocks(tokens.astype(np.uint16), 16, 3.5)


def run(child: Child, blocks: Blocks, checkpoints: Path | None = None, **changes: Any) -> Trained:
    rng = np.random.default_rng(7)
    return train(child, blocks, rng=rng, checkpoints=checkpoints, **{**SETTINGS, **changes})


def equal(one: Trained, other: Trained) -> bool:
    """Weights, ledger and losses, to the bit."""
    tensors = zip(one.child.tensors.items(), other.child.tensors.items(), strict=True)
    return (
        all(a == b and torch.equal(x, y) for (a, x), (b, y) in tensors)
        and np.array_equal(one.ledger_N, other.ledger_N, equal_nan=True)
        and [row["loss"] for row in one.log] == [row["loss"] for row in other.log]
        and one.effective_sizes == other.effective_sizes
    )


def test_it_learns_and_says_how(child: Child, blocks: Blocks) -> None:
    trained = run(child, blocks)
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 1
    assert trained.log[-1]["tokens"] == (len(blocks) + 2 * round(len(blocks) / 2)) * 16
    assert not np.isnan(trained.ledger_N).any()
    assert len(trained.effective_sizes) == 2
    assert trained.child.shape == child.shape


def test_the_given_child_is_left_alone(child: Child, blocks: Blocks) -> None:
    before = {name: tensor.clone() for name, tensor in child.tensors.items()}
    run(child, blocks, rounds=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in child.tensors.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32", "optimizer": "muon", "micro_batch_tokens": 48},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_kills_change_nothing(
    child: Child,
    blocks: Blocks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    """Three times in the first round, after scoring, in the last: as if nothing had been."""
    whole = run(child, blocks, **changes)
    update = Learner._update
    for last_step in (3, 9, 15, 20, 35):

        def killed(self: Learner, block_B: Any, last_step: int = last_step) -> None:
            if self._step == last_step:
                raise KeyboardInterrupt
            update(self, block_B)

        monkeypatch.setattr(Learner, "_update", killed)
        with pytest.raises(KeyboardInterrupt):
            run(child, blocks, tmp_path, **changes)
    monkeypatch.setattr(Learner, "_update", update)
    assert equal(run(child, blocks, tmp_path, **changes), whole)


def test_results_read_late_are_the_same(
    child: Child, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose results are fetched every so many steps."""
    monkeypatch.setattr(loop, "_LOG_ROWS", 4)
    at_once = run(child, blocks)
    monkeypatch.setattr(loop, "_FETCH_EVERY", {"cpu": 7})
    assert equal(run(child, blocks), at_once)


def test_choices_of_a_checkpoint_are_kept(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run computes as it began, whatever it would choose now."""
    update, usual = Learner._update, automatic.try_choices

    def killed(self: Learner, block_B: Any) -> None:
        if self._step == 3:
            raise KeyboardInterrupt
        update(self, block_B)

    def unusual(choices: Choices, *_: Any, **__: Any) -> Choices:
        return replace(choices, attention="eager", micro_blocks=1, cross_entropy="chunked")

    monkeypatch.setattr(Learner, "_update", killed)
    monkeypatch.setattr(automatic, "try_choices", unusual)
    with pytest.raises(KeyboardInterrupt):
        run(child, blocks, tmp_path, rounds=1)
    monkeypatch.setattr(automatic, "try_choices", usual)
    monkeypatch.setattr(Learner, "_update", update)
    resumed = run(child, blocks, tmp_path, rounds=1)
    assert resumed.choices == Choices("eager", False, 1, "chunked").as_dict()
    assert run(child, blocks, rounds=1).choices["attention"] == "query-blocks"


def test_a_signal_saves_and_says_so(
    child: Child, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    update = Learner._update

    def signalled(self: Learner, block_B: Any) -> None:
        if self._step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, block_B)

    monkeypatch.setattr(Learner, "_update", signalled)
    with pytest.raises(Interrupted, match="step 10"):
        run(child, blocks, tmp_path, checkpoint_seconds=1e9)
    monkeypatch.setattr(Learner, "_update", update)
    assert equal(run(child, blocks, tmp_path), run(child, blocks))


def test_ledger_is_the_loss_each_block_was_trained_with(child: Child, blocks: Blocks) -> None:
    """At a rate of almost nothing every block keeps the loss the child began with."""
    trained = run(child, blocks, rounds=1, learning_rate=1e-12, dtype="float32")
    ids = torch.from_numpy(blocks.batch(np.arange(len(blocks))))
    with torch.inference_mode():
        expected = block_losses(child.network(), ids).numpy()
    np.testing.assert_allclose(trained.ledger_N, expected, rtol=1e-4)


def test_no_rounds_leave_the_child_as_it_was(child: Child, blocks: Blocks) -> None:
    trained = run(child, blocks, rounds=0)
    assert trained.log == ()
    assert all(torch.equal(child.tensors[n], t) for n, t in trained.child.tensors.items())


def test_non_finite_steps_are_skipped_counted_and_end_it(child: Child, blocks: Blocks) -> None:
    broken = {n: t * (float("nan") if "norm" in n else 1.0) for n, t in child.tensors.items()}
    with pytest.raises(StageError, match="21th time"):
        run(Child(config=child.config, tensors=broken), blocks, batch_tokens=16)


def test_too_little_text_and_unknown_names_are_refused(child: Child, blocks: Blocks) -> None:
    with pytest.raises(CorpusError, match="not one block"):
        run(child, Blocks(blocks.tokens[:10], 16))
    with pytest.raises(RecipeError, match="did you mean 'uniform'"):
        run(child, blocks, resample="unifrom")


def _table(**changes: Any) -> Any:
    from pocketlm.recipe import TrainTable

    return TrainTable(**{**SETTINGS, **changes})


def test_checks_are_taken_where_asked_and_leave_no_trace(
    child: Child, blocks: Blocks, tmp_path: Path
) -> None:
    """Before, at the halfway step and at the end; a resumed run takes each once."""
    plain = run(child, blocks)
    settings = {"check_at": (0.0, 0.5, 1.0), "checkpoints": tmp_path}
    rng = np.random.default_rng(7)
    seen: list[float] = []

    def weight_sum(network: torch.nn.Module) -> float:
        assert not network.training
        if len(seen) == 2:
            seen.append(0.0)
            raise KeyboardInterrupt
        seen.append(float(sum(p.detach().double().sum() for p in network.parameters())))
        return seen[-1]

    table = {**SETTINGS, **settings}
    with pytest.raises(KeyboardInterrupt):
        train(child, blocks, rng=rng, bits_per_byte=weight_sum, **table)
    rng = np.random.default_rng(7)
    checked = train(child, blocks, rng=rng, bits_per_byte=weight_sum, **table)
    assert equal(plain, checked)
    assert [row["share"] for row in checked.checks] == [0.0, 0.5, 1.0]
    assert checked.checks[0]["tokens"] == 0
    assert checked.checks[1]["tokens"] * 2 == pytest.approx(checked.log[-1]["tokens"], rel=0.1)
    first = sum(t.double().sum().item() for t in child.tensors.values())
    assert checked.checks[0]["bits_per_byte"] == pytest.approx(first)
    assert len({row["bits_per_byte"] for row in checked.checks}) == 3
    assert run(child, blocks, check_at=(0.5,)).checks == ()  # nobody to ask
