"""Checkpoints a kill cannot spoil: new folder, fsync, sha256 manifest, rename.

The last two stay, and the one with the fewest bits per byte, where the run looks at those.

    step-000000120/  tensors.safetensors  state.json  manifest.json

safetensors loads a flipped bit without a word, so every file is hashed; a checkpoint that does not
match its manifest is passed over and the one before it is used.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from pocketlm.artifact import sha256_of, sync
from pocketlm.errors import DamagedArtifact, RecipeError, StageError

if TYPE_CHECKING:
    import torch

_KEPT = 2
_FORMAT = 2  # of what is in state.json; raised where an older one cannot be read


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue: tensors by name and plain numbers."""

    tensors: Mapping[str, "torch.Tensor"]
    state: Mapping[str, Any]


def save_checkpoint(
    folder: Path, step: int, checkpoint: Checkpoint, *, best_step: int | None = None
) -> None:
    """Write `checkpoint` as folder/step-N; the last two stay, and that of `best_step`.

    Raises `StageError` if the disk has no room for it; the ones before it are whole then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
    if shutil.disk_usage(folder).free < needed + 2**20:
        raise StageError(
            f"{folder}: a checkpoint needs {needed} bytes and the disk has fewer; free some, the "
            "last checkpoint is kept"
        )
    work = folder / "writing"
    try:
        _write(work, checkpoint)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise StageError(
            f"{folder}: step {step} could not be written ({error}); make room, the last "
            "checkpoint is kept and the same command continues from it"
        ) from None
    target = folder / f"step-{step:09d}"
    shutil.rmtree(target, ignore_errors=True)
    os.rename(work, target)
    sync(folder)
    for old in _steps(folder)[:-_KEPT]:
        if _step_of(old) != best_step:
            shutil.rmtree(old, ignore_errors=True)


def _write(work: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save_file

    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    save_file(dict(checkpoint.tensors), work / "tensors.safetensors")
    (work / "state.json").write_text(
        json.dumps({**checkpoint.state, "format": _FORMAT}), encoding="utf-8"
    )
    hashes = {name: sha256_of(work / name) for name in ("tensors.safetensors", "state.json")}
    (work / "manifest.json").write_text(json.dumps(hashes), encoding="utf-8")
    for path in (*work.iterdir(), work):
        sync(path)


def load_newest(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that matches its manifest, and the names of those passed over.

    Raises `StageError` for one of another version of pocketlm.
    """
    damaged: list[str] = []
    for path in reversed(_steps(folder)):
        if _intact(path):
            return _read(path), tuple(damaged)
        damaged.append(path.name)
    return None, tuple(damaged)


def load_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step.

    Raises `RecipeError`, with those there are, where there is none, `DamagedArtifact` where it does
    not match its manifest, `StageError` for one of another version of pocketlm.
    """
    path = folder / f"step-{step:09d}"
    if not path.is_dir():
        there = ", ".join(map(str, steps_in(folder))) or "none"
        raise RecipeError(f"no checkpoint of step {step} in {folder}; it has {there}")
    if not _intact(path):
        raise DamagedArtifact(f"{path}: differs from its manifest, or is being replaced just now")
    return _read(path)


def steps_in(folder: Path) -> tuple[int, ...]:
    """The steps that have a checkpoint, whole or not, ascending."""
    return tuple(map(_step_of, _steps(folder)))


def _read(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state.pop("format", 1) != _FORMAT:
        raise StageError(
            f"{path}: of another version of pocketlm; delete {path.parent} to begin anew"
        )
    return Checkpoint(load_file(path / "tensors.safetensors"), state)


def _intact(path: Path) -> bool:
    try:
        hashes = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return len(hashes) == 2 and all(sha256_of(path / n) == h for n, h in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
