"""A child that goes from file to file: the same bits, nothing held, nothing half-written."""

import json
import resource
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import OutputError, ParentError
from pocketlm.model import checkpoint as checkpoint_module
from pocketlm.model import weight_files
from pocketlm.model.checkpoint import Checkpoint, load_child, open_checkpoint, save_child
from pocketlm.model.child import Child, Unread
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit import inherit, inherit_unread

KEPT = np.random.default_rng(0).permutation(60)[:33]
CUT = {"vocab_size": 33, "layers": 3, "hidden": 24, "heads": 3, "ffn": 16}
UP = "model.layers.2.mlp.up_proj.weight"
INDEX = "model.safetensors.index.json"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def stored_as(parent: Child, folder: Path, dtype: torch.dtype) -> Checkpoint:
    """The parent in shards, as transformers writes them."""
    network = parent.network().to(dtype)
    network.save_pretrained(folder, max_shard_size="20KB")
    return open_checkpoint(folder)


def child_shape(checkpoint: Checkpoint, **changes: int) -> Shape:
    return replace(checkpoint.shape, **{**CUT, **changes})


def same(left: Child, right: Child) -> bool:
    assert left.tensors.keys() == right.tensors.keys()
    return all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())


@pytest.mark.parametrize(
    ("dtype", "settings", "on_disk"),
    [
        (torch.float32, {}, "float32"),
        (torch.bfloat16, {}, "bfloat16"),
        (torch.float16, {"neurons": "random"}, "float16"),
        (torch.bfloat16, {"layers": [3, 0, 0]}, "bfloat16"),
        (torch.bfloat16, {"norm_energy": True}, "float32"),
        (torch.bfloat16, {"refit": "stream"}, "float32"),
        (torch.bfloat16, {"hidden": "rotate", "norm_energy": True}, "float32"),
    ],
)
def test_streamed_is_what_is_in_memory(
    parent: Child,
    blocks: Blocks,
    tmp_path: Path,
    dtype: torch.dtype,
    settings: dict[str, Any],
    on_disk: str,
) -> None:
    checkpoint = stored_as(parent, tmp_path / "parent", dtype)
    narrow = Blocks(blocks.tokens % KEPT.size, blocks.seq_len)
    plain = {"neurons": "l2", "hidden": "score", "norm_energy": False, "refit": "none"}
    arguments: dict[str, Any] = {"calibration": narrow, **plain, **settings}
    shape = child_shape(checkpoint)
    in_memory = inherit(checkpoint, shape, KEPT, rng=rng(), **arguments)
    streamed = inherit_unread(checkpoint, shape, KEPT, rng=rng(), **arguments)
    assert streamed.dtype == on_disk
    save_child(streamed, tmp_path / "child", shard_bytes=5_000)
    assert same(load_child(tmp_path / "child"), in_memory)
    dtypes = {
        str(tensor.dtype)
        for path in (tmp_path / "child").glob("*.safetensors")
        for tensor in load_file(path).values()
    }
    assert dtypes == {f"torch.{on_disk}"}


def test_a_deeper_child_streams_too(parent: Child, tmp_path: Path) -> None:
    checkpoint = stored_as(parent, tmp_path / "parent", torch.bfloat16)
    shape = child_shape(checkpoint, layers=7)
    save_child(inherit_unread(checkpoint, shape, KEPT, rng=rng()), tmp_path / "child")
    assert same(load_child(tmp_path / "child"), inherit(checkpoint, shape, KEPT, rng=rng()))


def test_no_tensor_of_the_child_is_held(
    parent: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is made once and gone before the next; the parent's shards are gone through once."""
    make, alive, made = Unread.__getitem__, list[weakref.ref[torch.Tensor]](), list[str]()
    read_rows, files = checkpoint_module.read_rows, list[str]()

    def watched(self: Unread, name: str) -> torch.Tensor:
        assert not any(ref() is not None for ref in alive)
        tensor = make(self, name)
        alive.append(weakref.ref(tensor))
        made.append(name)
        return tensor

    def listed(path: Path, *about: Any) -> object:
        files.append(path.name)
        return read_rows(path, *about)

    checkpoint = stored_as(parent, tmp_path / "parent", torch.bfloat16)
    child = inherit_unread(checkpoint, child_shape(checkpoint), KEPT, rng=rng())
    monkeypatch.setattr(Unread, "__getitem__", watched)
    monkeypatch.setattr(checkpoint_module, "read_rows", listed)
    save_child(child, tmp_path / "child")
    assert sorted(made) == sorted(child.tensors)
    # A layer may lie in two shards, and its tensors come in the family's order, not in the files'.
    places = [sorted(set(files)).index(file) for file in files]
    assert max(places) > 3
    assert all(later >= place - 1 for place, later in pairwise(places))


def test_windows_without_a_kept_row_are_not_read(
    parent: Child, parent_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "WINDOW_VALUES", 48 * 4)
    checkpoint, name = open_checkpoint(parent_folder), "model.embed_tokens.weight"
    for rows in (KEPT, np.array([59, 0, 0, 31]), np.array([7])):
        read = torch.full((rows.size, 48), torch.nan)
        windows = 0
        for places, part in checkpoint.windows(name, rows):
            read[torch.from_numpy(places)] = part
            windows += 1
        assert torch.equal(read, parent.tensors[name][torch.from_numpy(rows)])
        assert windows == len({row // 4 for row in rows.tolist()})


def test_a_sharded_child_is_stock_transformers(parent: Child, tmp_path: Path) -> None:
    checkpoint = stored_as(parent, tmp_path / "parent", torch.bfloat16)
    save_child(
        inherit_unread(checkpoint, child_shape(checkpoint), KEPT, rng=rng()),
        tmp_path / "child",
        shard_bytes=5_000,
    )
    index = json.loads((tmp_path / "child" / INDEX).read_text())
    files = sorted(path.name for path in (tmp_path / "child").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert files[-1] == f"model-{len(files):05}-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in files for tensor in load_file(tmp_path / "child" / file).values()
    )
    network, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "child", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(
            network.eval()(ids).logits, load_child(tmp_path / "child").network()(ids).logits
        )
    arguments = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = network.generate(ids, use_cache=True, **arguments)
    assert torch.equal(cached, network.generate(ids, use_cache=False, **arguments))


def test_a_child_replaces_another_whole(parent: Child, tmp_path: Path) -> None:
    """Whether one file or shards were there, no weights of before are left."""
    for shard_bytes in (5_000, 10**9, 9_000):
        save_child(parent, tmp_path, shard_bytes=shard_bytes)
        assert same(load_child(tmp_path), parent)
        assert (tmp_path / INDEX).exists() == (shard_bytes < 10**9)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("settings", [{"neurons": "l2"}, {"neurons": "l1"}, {"neurons": "random"}])
def test_a_weight_that_is_no_number(
    parent: Child, tmp_path: Path, number: float, settings: dict[str, Any]
) -> None:
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    tensors[UP][:, 1:] = number
    folder = tmp_path / "parent"
    save_child(replace(parent, tensors=tensors), folder)
    checkpoint = open_checkpoint(folder)
    shape = replace(checkpoint.shape, hidden=24)
    with pytest.raises(
        ParentError, match=rf"model.safetensors: tensor {UP} holds nan or inf"
    ) as caught:
        save_child(
            inherit_unread(checkpoint, shape, np.arange(60), rng=rng(), **settings),
            tmp_path / "child",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "child").exists()


def test_a_weight_that_is_no_number_in_a_pass_over_text(
    parent: Child, blocks: Blocks, tmp_path: Path
) -> None:
    tensors = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    tensors[UP][3, 5] = torch.nan
    save_child(replace(parent, tensors=tensors), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    for neurons in ("energy", "taylor"):
        with pytest.raises(ParentError, match=f"tensor {UP} holds nan or inf"):
            inherit(
                checkpoint,
                replace(checkpoint.shape, ffn=16),
                np.arange(60),
                neurons=neurons,
                calibration=blocks,
                rng=rng(),
            )


def full_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=40_000))


def full_while_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may pass 40,000 bytes: the system refuses the write, as a full disk does."""
    real, (soft, hard) = weight_files.write_weights, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*about: Any, **options: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            real(*about, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint_module, "write_weights", limited)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (full_at_once, r"\d+ kB of weights, but the disk has 40 kB free"),
        (full_while_writing, r"cannot be written \(File too large\)"),
    ],
)
def test_a_full_disk_leaves_everything_as_it_was(
    parent: Child,
    parent_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[pytest.MonkeyPatch], None],
    message: str,
) -> None:
    checkpoint = open_checkpoint(parent_folder)
    small = inherit(checkpoint, child_shape(checkpoint), KEPT, rng=rng())
    save_child(small, tmp_path / "before")
    before = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    fill(monkeypatch)
    for folder in (tmp_path / "new", tmp_path / "before"):
        with pytest.raises(OutputError, match=message) as caught:
            save_child(parent, folder)
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()} == before


def test_a_shard_cut_short(parent: Child, tmp_path: Path) -> None:
    """Before anything is read, and where it happens while the child is written."""
    checkpoint = stored_as(parent, tmp_path, torch.bfloat16)
    child = inherit_unread(checkpoint, child_shape(checkpoint), KEPT, rng=rng())
    path, _ = checkpoint.stored[UP]
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(ParentError, match=f"{path.name}: damaged or cut short"):
        open_checkpoint(tmp_path)
    with pytest.raises(ParentError, match=f"{path.name}: cut short while it was read"):
        save_child(child, tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_an_unread_child_says_what_it_has_without_reading(parent_folder: Path) -> None:
    checkpoint = open_checkpoint(parent_folder)
    child = inherit_unread(checkpoint, checkpoint.shape, np.arange(60), neurons="random", rng=rng())
    unreadable = replace(child, tensors=Unread(dict.fromkeys(child.tensors, fail)))
    assert set(unreadable.tensors) == set(checkpoint.names)
    assert UP in unreadable.tensors
    assert "model.layers.9.mlp.up_proj.weight" not in unreadable.tensors
    with pytest.raises(AssertionError, match="read"):
        unreadable.held()


def fail() -> torch.Tensor:
    raise AssertionError("read")
