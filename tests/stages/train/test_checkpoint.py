"""Checkpoints: the newest whole one, whatever happened to the others."""

from pathlib import Path

import pytest
import torch

from pocketlm.errors import StageError
from pocketlm.stages.train import checkpoint
from pocketlm.stages.train.checkpoint import Checkpoint, load_newest, save_checkpoint


def save(folder: Path, step: int) -> None:
    state = {"step": step}
    save_checkpoint(folder, step, Checkpoint({"w": torch.full((3,), float(step))}, state))


def test_round_trip_and_only_the_last_two_stay(tmp_path: Path) -> None:
    for step in (5, 10, 2**40):
        save(tmp_path, step)
    found, damaged = load_newest(tmp_path)
    assert found is not None
    assert found.state == {"step": 2**40}
    assert found.tensors["w"].tolist() == [2.0**40] * 3
    assert damaged == ()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_one_is_passed_over_by_name(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-000000002" / name
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes(bytes(content) if how == "flip" else bytes(content[:-1]))
    found, damaged = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    assert damaged == ("step-000000002",)


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "writing").mkdir()
    (tmp_path / "writing" / "tensors.safetensors").write_text("x")
    found, _ = load_newest(tmp_path)
    assert found is not None
    assert found.state["step"] == 1


def test_nothing_there(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none") == (None, ())


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StageError, match="the last checkpoint is kept"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


def test_one_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", 1)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(StageError, match="another version"):
        load_newest(tmp_path)


def test_the_best_stays_beside_the_last_two(tmp_path: Path) -> None:
    for step in range(1, 7):
        content = Checkpoint({"w": torch.zeros(1)}, {})
        save_checkpoint(tmp_path, step, content, best_step=2 if step > 1 else 1)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [2, 5, 6]
