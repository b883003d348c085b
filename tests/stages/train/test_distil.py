"""The parent's part in a step: the divergence, its gradient, and predictions kept on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.errors import RecipeError
from pocketlm.model.child import Child
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.distil import Lesson, Lessons, Prediction, divergence, predict
from pocketlm.stages.train.resample import check_parent_losses
from pocketlm.stages.train.step import Step
from pocketlm.stages.train.stored import open_predictions, store_predictions
from pocketlm.tables import build_table

BLOCKS = np.arange(5)


@pytest.fixture(scope="module")
def ids(child: Child) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, child.shape.vocab_size, (5, 17), generator=rng)


def step_of(child: Child, **changes: Any) -> Step:
    table = {"seq_len": 16, "batch_tokens": 80, "dtype": "float32", "compile": False, **changes}
    return Step(child, TrainTable(**table))


def lesson_of(network: Any, weight: float, *, temperature: float = 1.0, kept: int = 0) -> Lesson:
    def teacher(_: Any, ids: torch.Tensor, places: torch.Tensor | None) -> Prediction:
        return predict(network, ids, places, temperature=temperature, num_tokens=kept)

    return Lesson(teacher, weight, BLOCKS)


def gradients(step: Step, ids: torch.Tensor, lesson: Lesson | None) -> dict[str, torch.Tensor]:
    step._gradients((ids, None), 1 / len(ids), step._any_loss, lesson)
    made = {n: p.grad.clone() for n, p in step.network.named_parameters() if p.grad is not None}
    step.clear()
    return made


def random_logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn((2, 3, 11), generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_torchs() -> None:
    log_p, logits = torch.log_softmax(random_logits(0), -1), random_logits(1)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(logits, -1), log_p, log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(divergence(logits, Prediction(log_p, None)), expected)


def test_what_is_not_likely_is_one_outcome_more() -> None:
    """K + 1 outcomes summed by hand; more of them tell more apart, and V - 1 are all."""
    log_p, logits = torch.log_softmax(random_logits(0), -1), random_logits(1)
    q, whole, before = torch.softmax(logits, -1), divergence(logits, Prediction(log_p, None)), None
    for kept in (1, 4, 10):
        top, ids = torch.topk(log_p, kept, dim=-1)
        p_K, q_K = top.exp(), q.gather(-1, ids)
        p_all = torch.cat([p_K, 1 - p_K.sum(-1, keepdim=True)], -1)
        q_all = torch.cat([q_K, 1 - q_K.sum(-1, keepdim=True)], -1)
        found = divergence(logits, Prediction(top, ids))
        torch.testing.assert_close(found, (p_all * (p_all / q_all).log()).sum(-1))
        assert before is None or (found >= before - 1e-6).all()
        before = found
    torch.testing.assert_close(before, whole)


@pytest.mark.parametrize("kept", [0, 7])
def test_nobody_learns_from_itself(child: Child, ids: torch.Tensor, kept: int) -> None:
    step = step_of(child, distil=1.0, distil_temperature=2.0)
    own = lesson_of(step.network, 1.0, temperature=2.0, kept=kept)
    usual, none = gradients(step, ids, None), gradients(step, ids, own)
    assert all(gradient.norm() < 1e-5 * usual[name].norm() for name, gradient in none.items())


def test_weights_mix_two_gradients(child: Child, ids: torch.Tensor) -> None:
    """That of the text alone and that of the parent alone, however the step is cut."""
    step = step_of(child, distil=0.5)
    parent = child.network().eval()
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter.mul_(1.3)
    text, taught = gradients(step, ids, None), gradients(step, ids, lesson_of(parent, 1.0))
    cut = step_of(child, distil=0.5, micro_batch_tokens=32)
    for mixing in (step, cut):
        mixed = gradients(mixing, ids, lesson_of(parent, 0.25))
        for name, gradient in mixed.items():
            expected = 0.75 * text[name] + 0.25 * taught[name]
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_ledger_holds_cross_entropy(child: Child, ids: torch.Tensor) -> None:
    step = step_of(child, distil=1.0)
    plain_B = step.losses(ids)
    lesson = lesson_of(child.network(), 1.0, kept=3)
    outcome = step.update(ids, num_blocks=5, rate=0.0, lesson=lesson)
    torch.testing.assert_close(outcome.losses_B, plain_B)


def test_high_temperatures_keep_the_size_of_the_gradient(child: Child, ids: torch.Tensor) -> None:
    """T^2 KL tends to half the squared difference of logits: no smaller at T = 30 than at 10."""
    parent, sizes = child.network().eval(), []
    with torch.no_grad():
        parent.get_input_embeddings().weight.mul_(1.2)
    for temperature in (10.0, 30.0):
        step = step_of(child, distil=1.0, distil_temperature=temperature)
        made = gradients(step, ids, lesson_of(parent, 1.0, temperature=temperature))
        sizes.append(float(sum(g.square().sum() for g in made.values()) ** 0.5))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    assert sizes[0] > 0


def test_the_weight_moves_in_a_straight_line() -> None:
    table = TrainTable(distil=1.0, distil_end=0.0)
    lessons = Lessons(table, lambda: lesson_of(None, 1.0).teacher, num_steps=5)
    found = [lessons.at(step, BLOCKS) for step in range(5)]
    assert [lesson.weight if lesson else None for lesson in found] == [1.0, 0.75, 0.5, 0.25, None]
    constant = Lessons(TrainTable(distil=0.3), lambda: lesson_of(None, 1.0).teacher, num_steps=5)
    weights = {lesson.weight for step in range(5) if (lesson := constant.at(step, BLOCKS))}
    assert weights == {0.3}
    assert Lessons(TrainTable(), None, num_steps=5).at(0, BLOCKS) is None


def test_stored_predictions_are_those_of_the_parent(
    child: Child, ids: torch.Tensor, tmp_path: Path
) -> None:
    """To float16; a pass that was killed goes on and ends with the same files."""
    network, asked = child.network().eval(), []

    def predictions(block_B: np.ndarray[Any, Any]) -> Prediction:
        asked.append(len(block_B))
        if len(asked) == 2 and not tmp_path.joinpath("killed").exists():
            tmp_path.joinpath("killed").touch()
            raise KeyboardInterrupt
        return predict(network, ids[block_B % 5], None, temperature=1.5, num_tokens=6)

    options: dict[str, Any] = {"shape_NTK": (40, 16, 6), "vocab_size": child.shape.vocab_size}
    files, resume = tmp_path / "files", tmp_path / "resume"
    files.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocketlm.stages.train.stored._SAVE_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            store_predictions(files, resume, predictions, **options)
    assert not list(files.iterdir())
    store_predictions(files, resume, predictions, **options)
    assert sum(asked) == 40 + 16  # the piece that was killed, twice
    teacher = open_predictions(files, torch.device("cpu"))
    stored = teacher(np.array([39, 0]), ids, None)
    expected = predict(network, ids[[4, 0]], None, temperature=1.5, num_tokens=6)
    assert stored.ids is not None
    assert expected.ids is not None
    torch.testing.assert_close(stored.log_p, expected.log_p, rtol=1e-3, atol=1e-3)
    assert torch.equal(stored.ids, expected.ids)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distil_temperature": 2.0}, "distil_temperature: nothing is distilled"),
        ({"distil": 1.0, "distil_from": "stored"}, "give distil_tokens"),
        ({"distil": 1.0, "cross_entropy": "chunked"}, "never holds the logits"),
        ({"distil": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_said(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_table(TrainTable, wrong, "[train]")


def test_without_a_parent_nothing_is_distilled() -> None:
    with pytest.raises(RecipeError, match="learns from a parent and there is none"):
        check_parent_losses(TrainTable(distil=0.5), has_parent=False)
