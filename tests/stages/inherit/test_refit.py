"""Refits in closed form: never worse where fitted, exact where possible, none where none is due."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.stages.inherit import REFITS, inherit
from pocketlm.stages.inherit.calibration import Calibration, calibration_ids
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.hidden import Cut, keep_channels
from pocketlm.stages.inherit.neurons import choose_units, l2_norm
from pocketlm.stages.inherit.norms import correct_norms
from pocketlm.stages.inherit.refit import refit_output, refit_stream
from pocketlm.stages.inherit.ridge import STRENGTHS, Ridge

EVERY_TOKEN = np.arange(60)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def evidence(parent_folder: Path, blocks: Blocks) -> Evidence:
    calibration = Calibration(ids_NT1=calibration_ids(blocks, 12), statistics={})
    checkpoint = open_checkpoint(parent_folder)
    return Evidence(parent=checkpoint, kept_V=EVERY_TOKEN, rng=rng(), calibration=calibration)


def cut_to(evidence: Evidence, kept_L: tuple[int, ...], **sizes: int) -> Cut:
    shape = replace(evidence.parent.shape, layers=len(kept_L), **sizes)
    units = choose_units(l2_norm(evidence, kept_L), evidence.parent.shape, shape)
    return keep_channels(evidence, shape, kept_L, units)


def problem(seed: int) -> tuple[Ridge, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    into = torch.randn(7, 5, 6, dtype=torch.float64, generator=generator)
    lacks = into[..., :3] * 0.5 + torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    ridge = Ridge(6, 3)
    for start in (0, 3, 4):
        stop = {0: 3, 3: 4, 4: 7}[start]
        ridge.add(start, into[start:stop], lacks[start:stop])
    return ridge, into, lacks


def test_ridge_is_least_squares_on_its_half() -> None:
    ridge, into, lacks = problem(0)
    even, wanted = into[::2].flatten(0, 1), lacks[::2].flatten(0, 1)
    exact = torch.linalg.lstsq(even, wanted).solution.T
    torch.testing.assert_close(ridge.solution(1e-12, (0,)), exact, rtol=1e-6, atol=1e-8)
    odd, missed = into[1::2].flatten(0, 1), lacks[1::2].flatten(0, 1)
    by_hand = (missed - odd @ exact.T).square().sum() - missed.square().sum()
    assert ridge.error(exact, 1) == pytest.approx(by_hand.item())


@pytest.mark.parametrize("seed", range(5))
def test_no_strength_is_worse_than_nothing_where_it_was_fitted(seed: int) -> None:
    ridge, _, _ = problem(seed)
    errors = [ridge.error(ridge.solution(strength, (0,)), 0) for strength in STRENGTHS]
    assert errors == sorted(errors)  # the smaller the ridge, the better the fit
    assert errors[-1] < 0


def test_what_does_not_carry_over_is_not_applied() -> None:
    ridge, generator = Ridge(4, 2), torch.Generator().manual_seed(0)
    into = torch.randn(2, 50, 4, generator=generator)
    truth = torch.randn(2, 4, generator=generator)
    signs = torch.tensor([1.0, -1.0])[:, None, None]
    ridge.add(0, into, signs * (into @ truth.T))  # the second half says the opposite
    assert not ridge.change().any()
    assert not Ridge(4, 2).change().any()


def test_a_neuron_that_repeats_another_is_made_up_for(parent: Child, tmp_path: Path) -> None:
    """Neurons 20 to 39 are copies of 0 to 19 with weaker outputs: refit doubles what stays."""
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    for layer in range(4):
        mlp = f"model.layers.{layer}.mlp."
        for name in ("gate_proj", "up_proj"):
            tensors[f"{mlp}{name}.weight"][20:] = tensors[f"{mlp}{name}.weight"][:20]
        down = tensors[f"{mlp}down_proj.weight"]
        down[:, 20:] = 0.5 * down[:, :20]
    double = replace(parent, tensors=tensors)
    save_child(double, tmp_path)
    more = Blocks(np.random.default_rng(4).integers(0, 60, 40 * 32 + 1), 32)
    calibration = Calibration(ids_NT1=calibration_ids(more, 40), statistics={})
    evidence = Evidence(
        parent=open_checkpoint(tmp_path), kept_V=EVERY_TOKEN, rng=rng(), calibration=calibration
    )
    made = cut_to(evidence, (0, 1, 2, 3), ffn=20)
    units = replace(made.units, ffn=(np.arange(20),) * 4)
    made = keep_channels(evidence, made.child.shape, made.kept_L, units)
    for refit in (refit_output, refit_stream):
        child = refit(evidence, made)
        for layer in range(4):
            down = f"model.layers.{layer}.mlp.down_proj.weight"
            wanted = 1.5 * tensors[down][:, :20]
            assert (child.tensors[down] - wanted).norm() < 0.01 * wanted.norm()


def stream_errors(evidence: Evidence, made: Cut, child: Child) -> list[float]:
    """Squared distance of the child's stream from the parent's after each kept layer."""
    ids = torch.from_numpy(evidence.measured.ids_NT1[:, :-1])
    parent = open_checkpoint(evidence.parent.folder)
    with torch.no_grad():
        theirs = whole(parent).network()(ids, output_hidden_states=True)
        ours = child.network()(ids, output_hidden_states=True)
    # transformers gives the last layer's output behind the final norm: leave it out.
    return [
        (theirs.hidden_states[kept + 1].double() @ made.basis_DK - ours.hidden_states[i + 1])
        .square()
        .sum()
        .item()
        for i, kept in enumerate(made.kept_L[:-1])
    ]


def whole(parent: Checkpoint) -> Child:
    tensors = {name: parent.read(name).float() for name in parent.names}
    return Child(config=parent.config, tensors=tensors)


def test_the_child_s_stream_comes_nearer(evidence: Evidence) -> None:
    made = cut_to(evidence, (0, 1, 3), hidden=36, ffn=20, heads=3)
    before = stream_errors(evidence, made, made.child)
    after = stream_errors(evidence, made, refit_stream(evidence, made))
    assert all(new < old for new, old in zip(after, before, strict=True))
    local = stream_errors(evidence, made, refit_output(evidence, made))
    assert sum(after) < sum(local)


@pytest.mark.parametrize("refit", [refit_output, refit_stream])
def test_where_nothing_is_cut_nothing_changes(
    evidence: Evidence, refit: Callable[[Evidence, Cut], Child]
) -> None:
    made = cut_to(evidence, (0, 1, 2, 3))
    child = refit(evidence, made)
    for name, tensor in made.child.tensors.items():
        torch.testing.assert_close(child.tensors[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in REFITS if name != "none"])
def test_batches_change_nothing(
    evidence: Evidence, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cut_to(evidence, (0, 2, 3), hidden=36, ffn=20)
    one = REFITS[name].function(evidence, made)
    monkeypatch.setattr("pocketlm.stages.inherit.refit.BATCH_BLOCKS", 5)
    other = REFITS[name].function(evidence, made)
    for key, tensor in one.tensors.items():
        torch.testing.assert_close(other.tensors[key], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("refit", ["output", "stream"])
def test_copies_stay_silent(parent_folder: Path, blocks: Blocks, refit: str) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, layers=6, ffn=20)
    child = inherit(checkpoint, shape, EVERY_TOKEN, refit=refit, calibration=blocks, rng=rng())
    silent = [
        not child.tensors[f"model.layers.{layer}.mlp.down_proj.weight"].any() for layer in range(6)
    ]
    assert silent == [False, True, False, False, True, False]


def test_norms_of_a_full_stream_stay_as_they_are(evidence: Evidence) -> None:
    made = cut_to(evidence, (0, 1, 2, 3), ffn=20)
    child = correct_norms(evidence, made)
    for name, tensor in made.child.tensors.items():
        torch.testing.assert_close(child.tensors[name], tensor, atol=1e-6, rtol=1e-6)


def test_norms_are_scaled_by_the_energy_that_stays(evidence: Evidence, parent: Child) -> None:
    made = cut_to(evidence, (0, 3), hidden=30)
    child = correct_norms(evidence, made)
    ids = torch.from_numpy(evidence.measured.ids_NT1[:, :-1])
    with torch.no_grad():
        streams = parent.network()(ids, output_hidden_states=True).hidden_states
    for place, layer in enumerate((0, 3)):
        stream = streams[layer].double()
        share = stream[..., made.units.hidden].square().sum(-1) / stream.square().sum(-1)
        name = f"model.layers.{place}.input_layernorm.weight"
        ratio = child.tensors[name] / made.child.tensors[name]
        expected = (share.mean() * 48 / 30).sqrt().float()
        torch.testing.assert_close(ratio, expected.expand(30), rtol=1e-4, atol=1e-4)


def test_refusals(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"layers \[2, 0\] are not in the parent's order"):
        refit_stream(evidence, cut_to(evidence, (2, 0)))
    from pocketlm.model.family import load_family

    family = load_family("llama").model_copy(update={"rotates": False})
    monkeypatch.setattr("pocketlm.stages.inherit.refit.load_family", lambda name: family)
    with pytest.raises(RecipeError, match="llama does not add each sublayer"):
        refit_stream(evidence, cut_to(evidence, (0, 1)))
