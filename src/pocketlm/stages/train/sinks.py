"""Other programs that show a run while it trains; they get the rows of the log and change none.

Packages are those of the extra `track`; nothing leaves the machine.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pocketlm.errors import RecipeError
from pocketlm.method import Method

TENSORBOARD = "tensorboard"
"""The folder of its event files, beside the checkpoints and then in the artifact."""
_PROJECT = "pocketlm"


class Sink(Protocol):
    """Takes the rows of a run in their order."""

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of the log."""

    def close(self) -> None:
        """The run is over, or stops for now."""


Row = Mapping[str, Any]


def tensorboard(folder: Path, known: Sequence[Row]) -> Sink:
    """Event files for `tensorboard --logdir`; a resumed run's replace those after `known`."""
    return _TensorBoard(folder / TENSORBOARD, known[-1]["step"] if known else 0)


def trackio(folder: Path, known: Sequence[Row]) -> Sink:
    """A run in trackio's own folder, for `trackio show --project pocketlm`; a resumed run writes it
    anew."""
    # The folder beside the artifact's files is called resume; the one around it has the key.
    sink = _Trackio(folder.parent.name if folder.name == "resume" else folder.name)
    for row in known:
        sink.add(row)
    return sink


SINKS = {
    "tensorboard": Method(tensorboard, paper="ours: torch.utils.tensorboard, package tensorboard"),
    "trackio": Method(trackio, paper="ours: package trackio, without a server"),
}


def check_installed(names: Iterable[str]) -> None:
    """Raise `RecipeError` for the first sink whose package is not installed: it has its name."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(
                f"[train] sinks: {name!r} needs the package {name}; pip install 'pocketlm[track]'"
            )


def _numbers(row: Row) -> dict[str, Any]:
    """What is drawn over the steps."""
    return {name: value for name, value in row.items() if name != "step" and value is not None}


class _TensorBoard:
    """One scalar for each number of a row."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, row: Row) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(f"train/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """One run of project `pocketlm`; an earlier one of its name is deleted."""

    def __init__(self, name: str) -> None:
        for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):  # rows would be sent there
            os.environ.pop(variable, None)
        with contextlib.redirect_stdout(sys.stderr):  # it greets there, and results go there
            import trackio

            with contextlib.suppress(ValueError):  # no such project yet
                for run in trackio.Api().runs(_PROJECT):
                    if run.name == name:
                        run.delete()
            self._run = trackio.init(
                project=_PROJECT, name=name, embed=False, auto_log_gpu=False, auto_log_cpu=False
            )

    def add(self, row: Row) -> None:
        self._run.log(_numbers(row), step=row["step"])

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            import trackio

            trackio.finish()  # this run, and once: its own method is called again at exit
