"""A step: the same gradient however it is cut, and none where a number is not finite."""

from typing import Any

import pytest
import torch

from pocketlm.errors import RecipeError
from pocketlm.model.child import Child
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.automatic import Choices
from pocketlm.stages.train.optim import OPTIMIZERS
from pocketlm.stages.train.step import Step


@pytest.fixture(scope="module")
def ids(child: Child) -> torch.Tensor:
    """Seven blocks of 16 tokens: no split into micro-batches of 2 or 3 comes out even."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, child.shape.vocab_size, (7, 17), generator=rng)


def step_of(child: Child, **changes: Any) -> Step:
    table: dict[str, Any] = {
        "seq_len": 16,
        "batch_tokens": 112,
        "dtype": "float32",
        "compile": False,
    }
    return Step(child, TrainTable(**{**table, **changes}))


def gradients(step: Step, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    losses_B = step.gradients(ids)
    made = {n: p.grad.clone() for n, p in step.network.named_parameters() if p.grad is not None}
    step.clear()
    return losses_B, made


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_tokens": 16},
        {"micro_batch_tokens": 48},
        {"cross_entropy": "chunked"},
        {"cross_entropy": "chunked", "micro_batch_tokens": 32},
        {"recompute": True},
        {"attention": "sdpa"},
    ],
    ids=str,
)
def test_however_it_is_computed_the_gradient_is_the_same(
    child: Child, ids: torch.Tensor, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketlm.model import chunked_loss

    monkeypatch.setattr(chunked_loss, "CHUNK_TOKENS", 40)  # the last chunk is smaller
    losses_B, expected = gradients(step_of(child), ids)
    ours_B, made = gradients(step_of(child, **changes), ids)
    torch.testing.assert_close(ours_B, losses_B, rtol=1e-5, atol=1e-6)
    assert made.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (made[name] - gradient).norm() <= 1e-6 * max(1.0, float(gradient.norm())), name


def test_recomputing_changes_no_bit(child: Child, ids: torch.Tensor) -> None:
    losses_B, expected = gradients(step_of(child), ids)
    ours_B, made = gradients(step_of(child, recompute=True), ids)
    assert torch.equal(losses_B, ours_B)
    assert all(torch.equal(made[name], gradient) for name, gradient in expected.items())


def test_chunks_in_bfloat16_are_as_close_as_bfloat16_is(child: Child, ids: torch.Tensor) -> None:
    _, exact = gradients(step_of(child), ids)
    errors = {}
    for form in ("full", "chunked"):
        _, made = gradients(step_of(child, dtype="bfloat16", cross_entropy=form), ids)
        errors[form] = max(float((made[n] - g).norm() / g.norm()) for n, g in exact.items())
    assert errors["chunked"] < 1.3 * errors["full"] < 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(
    child: Child, ids: torch.Tensor, optimizer: str
) -> None:
    """After an update, so that there are moments to spoil; the next good step is as if alone."""
    steps = [step_of(child, optimizer=optimizer) for _ in range(2)]
    for step in steps:
        step.update(ids, num_blocks=7, rate=1e-2)
    head = steps[0].network.get_output_embeddings().weight
    handle = head.register_hook(lambda gradient: gradient * float("inf"))
    outcome = steps[0].update(ids[:3], num_blocks=3, rate=1e-2)
    handle.remove()
    assert torch.isfinite(outcome.losses_B).all()
    assert not torch.isfinite(outcome.norm)
    for step in steps:
        step.update(ids[3:], num_blocks=4, rate=1e-2)
    pairs = zip(steps[0].network.parameters(), steps[1].network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_muon_is_torchs_own(child: Child) -> None:
    """Three steps on the same gradients as `torch.optim.Muon` with Moonlight's step size."""
    from pocketlm.stages.train.muon import Muon

    rng = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=rng) for shape in ((24, 40), (24, 40), (40, 24))]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    mine = Muon(ours, weight_decay=0.1)
    mine.param_groups[0]["lr"] = 0.02
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=rng)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b, first in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.02 * (b - first).norm()  # theirs rounds differently in bfloat16


def test_muon_leaves_embedding_and_vectors_to_adamw(child: Child) -> None:
    step = step_of(child, optimizer="muon")
    names = {id(p): n for n, p in step.network.named_parameters()}
    moved = [names[id(p)] for group in step.optimizers[0].param_groups for p in group["params"]]
    assert all("layers." in name and "norm" not in name for name in moved)
    assert len(moved) == 2 * 7  # q, k, v, o, gate, up, down of two layers


def test_others_may_bring_masks_to_score_with(child: Child, ids: torch.Tensor) -> None:
    """Query blocks take none; outside of `scoring` the step computes as before."""
    step = step_of(child)
    assert step.choices.attention == "query-blocks"
    mask = torch.ones_like(ids)
    mask[:, 0] = 0
    with step.scoring() as network, torch.no_grad():
        masked = network(input_ids=ids, attention_mask=mask).logits
        other = ids.clone()
        other[:, 0] += 1
        again = network(input_ids=other, attention_mask=mask).logits
    torch.testing.assert_close(masked[:, 1:], again[:, 1:])
    assert step.network.training
    assert step.network.config._attn_implementation == "query-blocks"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler imports torch.jit
def test_compiled_is_eager_but_for_rounding(child: Child, ids: torch.Tensor) -> None:
    losses_B, expected = gradients(step_of(child), ids)
    compiled = step_of(child, compile=True, micro_batch_tokens=48)  # 3 + 3 compiled, 1 not
    assert compiled.choices.compile
    ours_B, made = gradients(compiled, ids)
    torch.testing.assert_close(ours_B, losses_B, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        assert (made[name] - gradient).norm() <= 1e-5 * max(1.0, float(gradient.norm())), name


def test_compiling_without_a_compiler_is_refused(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RecipeError, match=r"g\+\+"):
        step_of(child, compile=True)
    assert isinstance(step_of(child, compile="auto").choices, Choices)
