"""What a study remembers of each run: one small file an arm and seed, in OUT/studies/NAME.

    ARM-SEED.json      recipe key, scores, seconds, or the line that says why it failed
    ARM-SEED.parquet   bits per document of the run's evaluation, where it has them

A record is believed only while its keys are those the study asks for now.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketlm.artifact import Score, write_atomically

_DOCUMENTS = Path("5-evaluate") / "documents.parquet"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of a study: scores, or the error that stopped it."""

    arm: str
    seed: int
    run: str
    """Name of the run, under OUT/runs."""
    recipe: str
    """`recipe_key` of what ran."""
    inputs: str
    """One key for its corpus, parent, code and hardware."""
    seconds: float
    """Time this run added; stages that another arm had made cost it nothing."""
    scores: Mapping[str, Score]
    error: str | None = None


@dataclass(frozen=True)
class Documents:
    """The child's held-out documents, [N] each: sha256 of the text, UTF-8 bytes, bits."""

    sha256: NDArray[np.str_]
    num_bytes: NDArray[np.float64]
    bits: NDArray[np.float64]


class Records:
    """The records of one study."""

    def __init__(self, out: Path, study: str) -> None:
        """`out`: the folder that also holds store and runs."""
        self.out = out
        self.folder = out / "studies" / study

    def read(self, arm: str, seed: int) -> Record | None:
        """The record of a run, None if there is none that can be read."""
        try:
            table = json.loads(self._path(arm, seed, "json").read_text(encoding="utf-8"))
            scores = {name: Score(**score) for name, score in table.pop("scores").items()}
            return Record(**table, scores=scores)
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: the run is redone
            return None

    def write(self, record: Record, run_folder: Path | None = None) -> None:
        """Keep a record, and the documents of its run; the record comes last and whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        documents = self._path(record.arm, record.seed, "parquet")
        if run_folder is not None and (run_folder / _DOCUMENTS).exists():
            shutil.copyfile(run_folder / _DOCUMENTS, documents)
        else:
            documents.unlink(missing_ok=True)
        table = json.dumps(asdict(record), indent=1, sort_keys=True)
        write_atomically(self._path(record.arm, record.seed, "json"), table + "\n")

    def documents(self, arm: str, seed: int) -> Documents | None:
        """The documents of a run in the order of their hash, each text once; None without."""
        path = self._path(arm, seed, "parquet")
        if not path.exists():
            return None
        from pyarrow import parquet

        table = parquet.read_table(path, columns=["text_sha256", "bytes", "child_bits"])
        sha256, first = np.unique(np.asarray(table["text_sha256"].to_pylist()), return_index=True)
        return Documents(
            sha256,
            table["bytes"].to_numpy().astype(np.float64)[first],
            table["child_bits"].to_numpy().astype(np.float64)[first],
        )

    def _path(self, arm: str, seed: int, suffix: str) -> Path:
        return self.folder / f"{arm}-{seed}.{suffix}"
