"""Inheritance: exact where nothing is cut, equal to a masked parent where something is."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import ParentError, RecipeError
from pocketlm.model.checkpoint import Checkpoint, load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.neutral import from_llama
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit import LAYER_PICKS, NEURON_SCORES, inherit
from pocketlm.stages.inherit.evidence import Evidence
from pocketlm.stages.inherit.layers import choose_layers
from pocketlm.stages.inherit.neurons import Units, choose_units

IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(5))
EVERY_TOKEN = np.arange(60)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def logits(child: Child, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = child.network()(ids).logits
    return out


def saved(child: Child, folder: Path) -> Checkpoint:
    save_child(child, folder)
    return open_checkpoint(folder)


def edited(child: Child, edit: Callable[[dict[str, torch.Tensor]], None]) -> Child:
    tensors = {name: tensor.clone() for name, tensor in child.tensors.items()}
    edit(tensors)
    return Child(config=child.config, tensors=tensors)


def layer_names(layer: int) -> tuple[str, str]:
    return f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."


@pytest.mark.parametrize("layers", LAYER_PICKS)
@pytest.mark.parametrize("neurons", NEURON_SCORES)
def test_identity(
    parent: Child, parent_folder: Path, blocks: Blocks, layers: str, neurons: str
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    child = inherit(
        checkpoint,
        checkpoint.shape,
        EVERY_TOKEN,
        layers=layers,
        neurons=neurons,
        calibration=blocks,
        rng=rng(),
    )
    assert all(torch.equal(child.tensors[n], t) for n, t in parent.tensors.items())
    assert torch.equal(logits(child), logits(parent))


def test_modules_of_a_pangu_pi_are_cut_along(parent: Child, tmp_path: Path) -> None:
    """Whole at the parent's own shape, and narrower with its neurons and channels."""
    wide = from_llama(parent, shortcut_width=5, rng=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    stirred = {n: t + 0.3 * torch.randn(t.shape, generator=noise) for n, t in wide.tensors.items()}
    wide = replace(wide, tensors=stirred)
    checkpoint = saved(wide, tmp_path)
    whole = inherit(checkpoint, checkpoint.shape, EVERY_TOKEN, rng=rng())
    assert torch.equal(logits(whole), logits(wide))
    shape = replace(checkpoint.shape, layers=2, hidden=24, heads=3, ffn=8, shortcut=2)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    assert child.shape == shape
    assert logits(child).isfinite().all()
    # The last layer stays the last, and a neuron's slopes go where its rows go.
    mlp, parent_mlp = "model.layers.1.mlp.", "model.layers.3.mlp."
    rows_F = [
        {float(value) for value in row} for row in wide.tensors[parent_mlp + "gate_proj.weight"]
    ]
    kept_F = [
        next(f for f, values in enumerate(rows_F) if float(row[0]) in values)
        for row in child.tensors[mlp + "gate_proj.weight"]
    ]
    for part in ("act_fn.0.scale", "act_fn.0.shift", "act_fn.1.scale", "act_fn.1.shift"):
        assert torch.equal(child.tensors[mlp + part], wide.tensors[parent_mlp + part][kept_F])


def test_kept_tokens_have_the_parent_s_logits(parent: Child, parent_folder: Path) -> None:
    kept_V = np.array([2, 1, 40, 7, 59, 30])
    checkpoint = open_checkpoint(parent_folder)
    child = inherit(checkpoint, checkpoint.shape.with_vocab(6), kept_V, rng=rng())
    ids = torch.tensor([[1, 0, 5, 3, 2, 4, 4]])
    in_parent = logits(parent, torch.from_numpy(kept_V)[ids])[..., torch.from_numpy(kept_V)]
    torch.testing.assert_close(logits(child, ids), in_parent, atol=1e-6, rtol=1e-6)
    assert (child.config["bos_token_id"], child.config["eos_token_id"]) == (1, 0)


def test_ids_of_tokens_that_left_become_none(parent_folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    config = {**checkpoint.config, "eos_token_id": [2, 9], "pad_token_id": 33}
    checkpoint = replace(checkpoint, config=config)
    child = inherit(checkpoint, checkpoint.shape.with_vocab(3), np.array([9, 4, 5]), rng=rng())
    ids = {key: child.config[f"{key}_token_id"] for key in ("bos", "eos", "pad")}
    assert ids == {"bos": None, "eos": [0], "pad": None}
    child.network()


@pytest.mark.parametrize("axis", ["layers", "ffn", "heads", "kv_heads", "hidden", "all"])
def test_masked_parent_equals_child(parent: Child, parent_folder: Path, axis: str) -> None:
    """Zeroing what leaves (and letting RMSNorm count kept channels only) is the same function."""
    checkpoint = open_checkpoint(parent_folder)
    cuts = {
        "layers": {"layers": 2},
        "ffn": {"ffn": 17},
        "heads": {"heads": 3},
        "kv_heads": {"heads": 4, "kv_heads": 2},
        "hidden": {"hidden": 30},
    }
    cuts["all"] = {"layers": 2, "ffn": 17, "heads": 2, "kv_heads": 2, "hidden": 30}
    shape = replace(checkpoint.shape, **cuts[axis])
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    evidence = Evidence(parent=checkpoint, kept_V=EVERY_TOKEN, rng=rng())
    kept_L = choose_layers("ends", evidence, shape.layers)
    scores = NEURON_SCORES["l2"].function(evidence, kept_L)
    units = choose_units(scores, checkpoint.shape, shape)
    masked = edited(parent, lambda tensors: mask(tensors, kept_L, units, checkpoint.shape))
    eps = child.config["rms_norm_eps"] * shape.hidden / checkpoint.shape.hidden
    masked = replace(masked, config={**masked.config, "rms_norm_eps": eps})
    torch.testing.assert_close(logits(child), logits(masked), atol=1e-5, rtol=1e-5)
    if axis != "layers":
        assert not torch.allclose(logits(child), logits(parent), atol=1e-2)


def mask(
    tensors: dict[str, torch.Tensor], kept_L: tuple[int, ...], units: Units, shape: Shape
) -> None:
    """Silence everything but `units` of `kept_L`, in place, all sizes staying the parent's."""
    kept_D = torch.zeros(shape.hidden)
    kept_D[units.hidden] = 1.0
    for name, tensor in tensors.items():
        if "norm" in name:
            tensor *= kept_D * (units.hidden.size / shape.hidden) ** 0.5
    tensors["model.embed_tokens.weight"] *= kept_D
    for layer in range(shape.layers):
        attention, mlp = layer_names(layer)
        tensors[f"{attention}o_proj.weight"] *= kept_D[:, None]
        tensors[f"{mlp}down_proj.weight"] *= kept_D[:, None]
        kept_heads, kept_neurons = torch.zeros(shape.heads), torch.zeros(shape.ffn)
        if layer in kept_L:
            kept_heads[units.heads[kept_L.index(layer)]] = 1.0
            kept_neurons[units.ffn[kept_L.index(layer)]] = 1.0
        tensors[f"{attention}o_proj.weight"] *= kept_heads.repeat_interleave(shape.head_dim)
        tensors[f"{mlp}down_proj.weight"] *= kept_neurons


def test_order_of_neurons_does_not_matter(parent: Child, tmp_path: Path) -> None:
    def shuffle(tensors: dict[str, torch.Tensor]) -> None:
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        for layer in range(4):
            mlp = layer_names(layer)[1]
            for name in ("gate_proj", "up_proj"):
                tensors[f"{mlp}{name}.weight"] = tensors[f"{mlp}{name}.weight"][order]
            tensors[f"{mlp}down_proj.weight"] = tensors[f"{mlp}down_proj.weight"][:, order]

    plain = saved(parent, tmp_path / "plain")
    shuffled = saved(edited(parent, shuffle), tmp_path / "shuffled")
    shape = replace(plain.shape, ffn=20, hidden=24)
    left = inherit(plain, shape, EVERY_TOKEN, rng=rng())
    right = inherit(shuffled, shape, EVERY_TOKEN, rng=rng())
    torch.testing.assert_close(logits(left), logits(right), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("neurons", ["l1", "l2"])
def test_silent_units_are_the_ones_that_leave(parent: Child, tmp_path: Path, neurons: str) -> None:
    """Neurons, heads and channels of zero weight go first, and nothing changes."""

    def silence(tensors: dict[str, torch.Tensor]) -> None:
        silent_D = torch.randperm(48, generator=torch.Generator().manual_seed(2))[:18]
        for name, tensor in tensors.items():
            if "norm" in name or "o_proj" in name or "down_proj" in name:
                tensor[silent_D] = 0.0
            else:
                tensor[:, silent_D] = 0.0
        for layer in range(4):
            attention, mlp = layer_names(layer)
            tensors[f"{mlp}gate_proj.weight"][::2] = 0.0
            tensors[f"{mlp}up_proj.weight"][::2] = 0.0
            tensors[f"{mlp}down_proj.weight"][:, ::2] = 0.0
            for head in (0, 3, 4):  # one of each group of two
                rows = slice(8 * head, 8 * head + 8)
                tensors[f"{attention}q_proj.weight"][rows] = 0.0
                tensors[f"{attention}o_proj.weight"][:, rows] = 0.0

    silent = edited(parent, silence)
    checkpoint = saved(silent, tmp_path)
    shape = replace(checkpoint.shape, ffn=20, hidden=30, heads=3)
    child = inherit(checkpoint, shape, EVERY_TOKEN, neurons=neurons, rng=rng())
    # RMSNorm divides by the mean over all channels; undo the change of their number.
    ratio = 30 / 48
    rescaled = {n: t / ratio**0.5 if "norm" in n else t for n, t in child.tensors.items()}
    config = {**child.config, "rms_norm_eps": child.config["rms_norm_eps"] / ratio}
    same = Child(config=config, tensors=rescaled)
    torch.testing.assert_close(logits(same), logits(silent), atol=1e-5, rtol=1e-5)


def test_only_kept_tokens_and_layers_are_scored(parent: Child, tmp_path: Path) -> None:
    def shout(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][50:, :24] += 1e3
        tensors["model.layers.1.mlp.up_proj.weight"][:, :24] += 1e3

    shape = replace(open_checkpoint(saved(parent, tmp_path / "a").folder).shape, vocab_size=50)
    shape = replace(shape, layers=2, hidden=24)
    loud = saved(edited(parent, shout), tmp_path / "b")
    quiet = open_checkpoint(tmp_path / "a")
    left = inherit(quiet, shape, np.arange(50), rng=rng())
    right = inherit(loud, shape, np.arange(50), rng=rng())
    assert all(torch.equal(left.tensors[n], t) for n, t in right.tensors.items())


def test_tied_parents_under_either_name(parent: Child, tmp_path: Path) -> None:
    tensors = {n: t for n, t in parent.tensors.items() if n != "lm_head.weight"}
    tied = Child(config={**parent.config, "tie_word_embeddings": True}, tensors=tensors)
    plain = saved(tied, tmp_path / "plain")
    save_child(tied, tmp_path / "renamed")
    tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "renamed" / "model.safetensors", metadata={"format": "pt"})
    shape = replace(plain.shape, hidden=24, layers=2, ffn=16)
    left = inherit(plain, shape, EVERY_TOKEN, rng=rng())
    right = inherit(open_checkpoint(tmp_path / "renamed"), shape, EVERY_TOKEN, rng=rng())
    assert "lm_head.weight" not in left.tensors
    assert list(left.tensors) == list(right.tensors)
    assert all(torch.equal(left.tensors[n], t) for n, t in right.tensors.items())
    untied = inherit(plain, replace(shape, tied=False), EVERY_TOKEN, rng=rng())
    assert torch.equal(logits(untied), logits(left))


def test_sharded_parent_gives_the_same_child(
    parent: Child, parent_folder: Path, tmp_path: Path
) -> None:
    names = sorted(parent.tensors)
    weight_map = {name: f"{i % 3}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        members = {n: parent.tensors[n] for n in names if weight_map[n] == file}
        save_file(members, tmp_path / file, metadata={"format": "pt"})
    text = json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    (tmp_path / "config.json").write_bytes((parent_folder / "config.json").read_bytes())
    whole, shards = open_checkpoint(parent_folder), open_checkpoint(tmp_path)
    shape = replace(whole.shape, hidden=24, layers=3, ffn=16, heads=3)
    left = inherit(whole, shape, EVERY_TOKEN, rng=rng())
    right = inherit(shards, shape, EVERY_TOKEN, rng=rng())
    assert all(torch.equal(left.tensors[n], t) for n, t in right.tensors.items())


def test_every_tensor_is_read_twice(parent_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its score and for the cut; nothing of a layer that leaves."""
    windows, reads = Checkpoint.windows, Counter[str]()

    def counted(self: Checkpoint, name: str, *rows: np.ndarray) -> object:
        reads[name] += 1
        return windows(self, name, *rows)

    monkeypatch.setattr(Checkpoint, "windows", counted)
    checkpoint = open_checkpoint(parent_folder)
    inherit(checkpoint, checkpoint.shape, EVERY_TOKEN, rng=rng())
    assert set(reads) == set(checkpoint.names)
    assert set(reads.values()) == {2}
    reads.clear()
    inherit(checkpoint, replace(checkpoint.shape, layers=2), EVERY_TOKEN, rng=rng())
    assert not any("layers.1." in name or "layers.2." in name for name in reads)


@pytest.mark.parametrize("num_layers", [5, 8, 11])
def test_a_deeper_child_computes_what_its_parent_does(
    parent: Child, parent_folder: Path, num_layers: int
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, layers=num_layers)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    assert child.shape == shape
    assert torch.equal(logits(child), logits(parent))
    # Where the list is the user's, so are the copies.
    listed = sorted([0, 1, 2, 3, *range(4), *range(4)][:num_layers])
    plain = inherit(checkpoint, shape, EVERY_TOKEN, layers=listed, rng=rng())
    assert not torch.allclose(logits(plain), logits(parent), atol=1e-2)


def test_a_listed_child_has_those_layers(parent: Child, parent_folder: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, layers=3)
    child = inherit(checkpoint, shape, EVERY_TOKEN, layers=[3, 0, 3], rng=rng())
    for layer, source in enumerate((3, 0, 3)):
        for name in ("mlp.up_proj", "self_attn.o_proj", "input_layernorm"):
            ours = child.tensors[f"model.layers.{layer}.{name}.weight"]
            assert torch.equal(ours, parent.tensors[f"model.layers.{source}.{name}.weight"])


def test_child_generates_in_transformers(parent_folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = replace(checkpoint.shape, layers=2, hidden=24, heads=4, kv_heads=2, ffn=16)
    child = inherit(checkpoint, shape, EVERY_TOKEN, rng=rng())
    save_child(child, tmp_path)
    assert load_child(tmp_path).shape == shape
    network, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(network(IDS).logits, logits(child))
    arguments = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = network.generate(IDS[:1], use_cache=True, **arguments)
    assert cached.shape == (1, 38)
    assert torch.equal(cached, network.generate(IDS[:1], use_cache=False, **arguments))


def test_refusals(parent_folder: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    shape = checkpoint.shape
    with pytest.raises(RecipeError, match=r"\[inherit\] layers = 'end'.*did you mean 'ends'"):
        inherit(checkpoint, shape, EVERY_TOKEN, layers="end", rng=rng())
    with pytest.raises(RecipeError, match=r"\[inherit\] neurons = 'masks'"):
        inherit(checkpoint, shape, EVERY_TOKEN, neurons="masks", rng=rng())
    with pytest.raises(RecipeError, match="hidden = 54: the parent has 48"):
        inherit(checkpoint, replace(shape, hidden=54), EVERY_TOKEN, rng=rng())
    with pytest.raises(ParentError, match="token 60 of the tokenizer has no row"):
        inherit(checkpoint, shape.with_vocab(1), np.array([60]), rng=rng())


def test_real_parent(shared_data: Path) -> None:
    checkpoint = open_checkpoint(shared_data / "models" / "tinystories-656k")
    every_token = np.arange(2048)
    ids = torch.tensor([[1, 147, 201, 282, 50, 60]])
    same = inherit(checkpoint, checkpoint.shape, every_token, rng=rng())
    whole = load_child(checkpoint.folder)
    assert torch.equal(logits(same, ids), logits(whole, ids))
    shape = replace(checkpoint.shape, hidden=96)
    assert inherit(checkpoint, shape, every_token, rng=rng()).shape == shape
