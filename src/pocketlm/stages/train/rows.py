"""Where the rows of the log go as they are made: a file that can be followed, and sinks.

`log.jsonl` holds one JSON object a line. What a checkpoint says about the log is the truth: a run
that resumes writes the file anew from it, so no row is there twice and none is lost.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketlm.artifact import write_atomically
from pocketlm.errors import RecipeError, StageError
from pocketlm.method import pick
from pocketlm.stages.train.sinks import SINKS, Sink, check_installed

LOG = "log.jsonl"
Row = Mapping[str, Any]


def as_lines(rows: Iterable[Row]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(dict(row)) + "\n" for row in rows)


class Rows:
    """The file and the sinks of one run; nothing before `begin`.

    Raises `RecipeError` for a sink that is unknown or not installed.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._makers = {name: pick(SINKS, name, "[train] sinks") for name in names}
        check_installed(names)
        self._sinks: dict[str, Sink] = {}
        self._path: Path | None = None
        self._warn: Callable[[str], None] = lambda text: None

    def begin(self, folder: Path | None, known: Sequence[Row], warn: Callable[[str], None]) -> None:
        """Write below `folder`; the rows `known` were made before a resume.

        Raises `RecipeError` for sinks without a folder.
        """
        self._warn = warn
        if folder is None:
            if self._makers:
                raise RecipeError(
                    "[train] sinks: without `checkpoints` there is no folder for them"
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG
        write_atomically(self._path, as_lines(known))
        self._sinks = {name: make(folder, known) for name, make in self._makers.items()}

    def add(self, row: Row) -> None:
        """One more row. Raises `StageError` where the disk has no room; a sink that fails is left
        out from then on, with a warning."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(as_lines([row]))
        except OSError as error:
            raise StageError(
                f"{self._path}: step {row['step']} could not be written ({error}); make room, the "
                "last checkpoint is kept and the same command continues from it"
            ) from None
        for name in list(self._sinks):
            self._guarded(name, lambda sink: sink.add(row))

    def end(self) -> None:
        """Let the sinks finish."""
        for name in list(self._sinks):
            self._guarded(name, lambda sink: sink.close())

    def _guarded(self, name: str, act: Callable[[Sink], None]) -> None:
        try:
            act(self._sinks[name])
        except Exception as error:  # whatever a tracker throws must not end a run of days
            self._warn(f"[train] sinks: {name} failed and is left out ({error})")
            del self._sinks[name]
