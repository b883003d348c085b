"""The parent's predictions on disk: it reads every block once, and training reads them by number.

    log_p_NTK.npy   float16: ln p of the K likeliest tokens at each place, at the temperature T
    ids_NTK.npy     their ids, the smallest unsigned type that holds them

Shapes: N blocks, T = seq_len places, K likeliest, B blocks at once.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.corpus.blocks import IntArray
from pocketlm.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from pocketlm.stages.train.distil import Prediction, Teacher

_LOG_P, _IDS, _DONE = "log_p_NTK.npy", "ids_NTK.npy", "done.json"
_AT_ONCE = 16
_SAVE_SECONDS = 30.0


def store_predictions(
    files: Path,
    resume: Path,
    predict: "Callable[[IntArray], Prediction]",
    *,
    shape_NTK: tuple[int, int, int],
    vocab_size: int,
    progress: Progress = SILENT,
) -> None:
    """Write what `predict` says of blocks 0 to N - 1 into `files`; a killed call goes on from what
    `resume` holds."""
    resume.mkdir(parents=True, exist_ok=True)
    kinds = {_LOG_P: np.dtype(np.float16), _IDS: np.min_scalar_type(vocab_size - 1)}
    num_done = _num_done(resume)
    mode = "r+" if num_done else "w+"
    arrays = {
        name: np.lib.format.open_memmap(resume / name, mode=mode, dtype=kind, shape=shape_NTK)
        for name, kind in kinds.items()
    }
    num_blocks, saved = shape_NTK[0], time.monotonic()
    with progress.task("the parent predicts", num_blocks, "block") as advance:
        advance(num_done)
        for start in range(num_done, num_blocks, _AT_ONCE):
            stop = min(start + _AT_ONCE, num_blocks)
            log_p, ids = predict(np.arange(start, stop))
            assert ids is not None  # whole distributions are not stored: the recipe's own check
            arrays[_LOG_P][start:stop] = log_p.cpu().numpy()
            arrays[_IDS][start:stop] = ids.cpu().numpy()
            advance(stop - start)
            if time.monotonic() - saved > _SAVE_SECONDS:
                _save(resume, arrays, stop)
                saved = time.monotonic()
    (resume / _DONE).unlink(missing_ok=True)  # from here on a killed call begins anew
    for name, array in arrays.items():
        array.flush()
        os.replace(resume / name, files / name)


def open_predictions(folder: Path, device: "torch.device") -> "Teacher":
    """A teacher that reads what `store_predictions` wrote."""
    import torch

    from pocketlm.stages.train.distil import Prediction

    log_p_NTK = np.load(folder / _LOG_P, mmap_mode="r")
    ids_NTK = np.load(folder / _IDS, mmap_mode="r")

    def teacher(
        block_B: IntArray, ids_BT1: torch.Tensor, place_BT: torch.Tensor | None
    ) -> Prediction:
        log_p_BTK = torch.from_numpy(log_p_NTK[block_B].astype(np.float32))
        ids_BTK = torch.from_numpy(ids_NTK[block_B].astype(np.int64))
        return Prediction(log_p_BTK.to(device), ids_BTK.to(device))

    return teacher


def _num_done(resume: Path) -> int:
    path = resume / _DONE
    return int(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0


def _save(resume: Path, arrays: dict[str, np.memmap], num_done: int) -> None:
    """First the numbers, then how many there are."""
    for array in arrays.values():
        array.flush()
    beside = resume / f".{_DONE}"
    beside.write_text(json.dumps(num_done), encoding="utf-8")
    os.replace(beside, resume / _DONE)
