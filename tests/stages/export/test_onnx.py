"""ONNX files of every family: what onnxruntime computes is what transformers computes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import StageError, UserError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child
from pocketlm.model.neutral import from_llama
from pocketlm.stages.export import check_formats, export
from pocketlm.stages.export.onnx import read_back, write_onnx
from pocketlm.stages.export.onnx_check import Session

_REASON = "needs the extra: pip install 'pocketlm[onnx]'"
onnx = pytest.importorskip("onnx", reason=_REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=_REASON)

PRECISIONS = ("f32", "int8")


@pytest.fixture(scope="session")
def onnx_files(child, tokenizer, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    exported = export(
        child,
        tokenizer,
        folder,
        formats=["onnx-f32", "onnx-int8"],
        check_texts=texts,
        lineage={"recipe": "pico", "train key": "0123"},
    )
    return folder, exported


def _logits(network, ids_BT, mask_BS, past=None) -> np.ndarray:
    position_BS = (mask_BS.cumsum(1) - 1).clip(0)
    with torch.inference_mode():
        return network(
            input_ids=torch.from_numpy(ids_BT),
            attention_mask=torch.from_numpy(mask_BS),
            position_ids=torch.from_numpy(position_BS[:, -ids_BT.shape[1] :]),
            past_key_values=past,
        ).logits.numpy()


def _check_all_ways(path: Path, child: Child, tolerance: float) -> None:
    """At once, in steps of any size through the cache, and in a batch of two padded at the left."""
    network, session = child.network(), Session.load(path, child)
    rng = np.random.default_rng(0)
    ids_1T = rng.integers(child.shape.vocab_size, size=(1, 20))
    ones_1T = np.ones_like(ids_1T)
    expected = _logits(network, ids_1T, ones_1T)
    scale = expected.std()

    def close(own: np.ndarray, other: np.ndarray) -> None:
        assert own.shape == other.shape
        assert ((own - other) ** 2).mean() ** 0.5 <= tolerance * scale

    close(session.step(ids_1T, ones_1T)[0], expected)
    past = None
    for start, stop in ((0, 7), (7, 8), (8, 9), (9, 20)):
        logits, past = session.step(ids_1T[:, start:stop], ones_1T[:, :stop], past)
        close(logits, expected[:, start:stop])
    ids_BT = np.concatenate([ids_1T, rng.integers(child.shape.vocab_size, size=(1, 20))])
    ids_BT[1, :5] = 0
    mask_BT = np.ones_like(ids_BT)
    mask_BT[1, :5] = 0
    short = _logits(network, ids_BT[1:, 5:], ones_1T[:, 5:])
    first, past = session.step(ids_BT[:, :12], mask_BT[:, :12])
    rest, _ = session.step(ids_BT[:, 12:], mask_BT, past)
    logits = np.concatenate([first, rest], axis=1)
    close(logits[:1], expected)
    close(logits[1:, 5:], short)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_family_says_what_transformers_says(
    variant, tied, family_parent: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    child = load_child(family_parent(variant, tied=tied))
    path = write_onnx(child, tokenizer, tmp_path / "f32", precision="f32", lineage={})
    read_back(path, child, "f32")
    _check_all_ways(path, child, 1e-4)
    # What is read back has the weights' rounding; the rest is that of what runs through them.
    path = write_onnx(child, tokenizer, tmp_path / "int8", precision="int8", lineage={})
    _check_all_ways(path, read_back(path, child, "int8"), 0.3)


@pytest.mark.parametrize("shortcut_width", [3, 0])
def test_pangu_pi_needs_no_operator_of_its_own(
    shortcut_width, child: Child, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rng = torch.Generator().manual_seed(0)
    pangu = from_llama(child, num_activations=3, shortcut_width=shortcut_width, rng=rng)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng)  # no part neutral
        for name, tensor in pangu.tensors.items()
    }
    pangu = replace(pangu, tensors=tensors)
    path = write_onnx(pangu, tokenizer, tmp_path / "x", precision="f32", lineage={})
    _check_all_ways(path, pangu, 1e-4)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}


@pytest.mark.parametrize("scaling", [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
], ids=lambda scaling: scaling["rope_type"])  # fmt: skip
def test_rotary_scalings(scaling, child: Child, tokenizer: Tokenizer, tmp_path: Path) -> None:
    scaled = replace(
        child, config={**child.config, "rope_parameters": {**scaling, "rope_theta": 1e4}}
    )
    path = write_onnx(scaled, tokenizer, tmp_path / "x", precision="f32", lineage={})
    _check_all_ways(path, scaled, 1e-4)


@pytest.mark.parametrize(("changes", "message"), [
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
     "no onnx files for rotary scaling 'dynamic'"),
    ({"hidden_act": "relu"}, "no onnx files for activation 'relu'; it has silu, gelu"),
])  # fmt: skip
def test_what_has_no_place_is_refused(changes, message, child, tokenizer, tmp_path) -> None:
    other = replace(child, config={**child.config, **changes})
    with pytest.raises(UserError, match=message):
        export(other, tokenizer, tmp_path, formats=["onnx-f32"], check_texts=[], lineage={})
    assert not list(tmp_path.iterdir())


def test_the_file_is_as_large_as_its_numbers(onnx_files, child) -> None:
    """A tied head is there once, in either precision."""
    folder, _ = onnx_files
    count = sum(tensor.numel() for tensor in child.tensors.values())
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*.onnx")}
    graph = len(onnx.load(folder / "onnx-f32/onnx/model.onnx").graph.node) * 150
    assert 4 * count < sizes["model.onnx"] < 4 * count + graph
    assert count < sizes["model_int8.onnx"] < 1.3 * count + 1.5 * graph


def test_everything_is_said_of_a_delivered_file(onnx_files) -> None:
    folder, exported = onnx_files
    scores = exported.scores
    assert scores["onnx-f32.greedy_as_child"].value == 1
    assert scores["onnx-f32.logits_error"].value < 1e-4
    assert scores["onnx-int8.greedy_gap"].value < 0.5
    for file in exported.files:
        parts = [path for path in (folder / file.path).rglob("*") if path.is_file()]
        assert file.num_bytes == sum(path.stat().st_size for path in parts)
        assert "greedy tokens are the child's own" in file.verified
        assert scores[f"{file.format}.decode_tokens_per_s"].value > 0
    assert {path.name for path in folder.iterdir()} == {"onnx-f32", "onnx-int8"}


def test_the_folder_is_what_transformers_js_reads(onnx_files, child, tokenizer, texts) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = onnx_files[0] / "onnx-int8"
    assert (folder / "onnx" / "model_int8.onnx").is_file()
    assert AutoConfig.from_pretrained(folder).num_hidden_layers == child.shape.layers
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
    ids = AutoTokenizer.from_pretrained(folder)(texts[0])["input_ids"]
    assert ids == tokenizer.encode(texts[0])


def test_lineage_and_names_are_in_the_file(onnx_files, child) -> None:
    model = onnx.load(onnx_files[0] / "onnx-f32/onnx/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props == {"pocketlm.recipe": "pico", "pocketlm.train_key": "0123"}
    names = [place.name for place in model.graph.input]
    assert names[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    outputs = [place.name for place in model.graph.output]
    assert outputs[0] == "logits"
    assert outputs[-1] == f"present.{child.shape.layers - 1}.value"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_child_gives_the_same_bytes(
    precision, onnx_files, child, tokenizer, tmp_path
) -> None:
    lineage = {"recipe": "pico", "train key": "0123"}
    path = write_onnx(child, tokenizer, tmp_path / "x", precision=precision, lineage=lineage)
    first = onnx_files[0] / f"onnx-{precision}" / "onnx" / path.name
    assert path.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_changed_number_is_found(precision, onnx_files, child) -> None:
    path = next((onnx_files[0] / f"onnx-{precision}").rglob("*.onnx"))
    read_back(path, child, precision)
    for name in ("model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
        tensor = child.tensors[name].clone()
        tensor.view(-1)[3] += 0.1
        other = replace(child, tensors={**child.tensors, name: tensor})
        with pytest.raises(StageError, match="does not hold the child's"):
            read_back(path, other, precision)


def test_a_file_that_differs_is_not_delivered(child, tokenizer, tmp_path, monkeypatch) -> None:
    export_one = {"formats": ["onnx-f32"], "check_texts": ["You may"], "lineage": {}}
    network = "pocketlm.stages.export.onnx_network"
    monkeypatch.setattr(f"{network}._window", lambda config, layer: 1)
    with pytest.raises(StageError, match="standard deviations of the logits off"):
        export(child, tokenizer, tmp_path, **export_one)
    monkeypatch.setattr(f"{network}._Network._silu", lambda self, x: self.graph.node("No", x))
    with pytest.raises(StageError, match="onnxruntime does not load"):
        export(child, tokenizer, tmp_path, **export_one)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(child, tokenizer, tmp_path, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pocketlm.stages.export.check_in_onnxruntime", stop)
    with pytest.raises(KeyboardInterrupt):
        export(child, tokenizer, tmp_path, formats=["onnx-f32"], check_texts=[], lineage={})
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named_before_anything_is_made(
    child, tokenizer, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("pocketlm.stages.export.onnx_graph.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pocketlm\[onnx\]'"):
        check_formats(["huggingface", "onnx-int8"], "llama")
    formats = ["huggingface", "onnx-int8"]
    with pytest.raises(UserError, match="need onnx and onnxruntime"):
        export(child, tokenizer, tmp_path, formats=formats, check_texts=[], lineage={})
    assert not list(tmp_path.iterdir())


def test_a_file_beyond_protocol_buffers_is_refused(child, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pocketlm.stages.export.onnx.MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"onnx-f32 would be .* choose onnx-int8, gguf"):
        write_onnx(child, tokenizer, tmp_path / "x", precision="f32", lineage={})
    assert not list(tmp_path.iterdir())
