"""Progress: what long work tells the user while it runs, on stderr.

Stages get a `Progress` and never print. `SILENT` is for libraries and tests, `RichProgress` for the
command line: a live bar on a terminal, a line now and then where stderr is a file.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from pocketlm.units import show_bytes, show_count, show_seconds

if TYPE_CHECKING:  # a fifth of a second that `--help` must not pay
    from rich.progress import Progress as Bars

_QUIET_SECONDS = 1.0  # work shorter than this shows no bar
_LINE_SECONDS = 10.0  # between plain lines of one task
_RESUME_SECONDS = 0.1  # what is reported this early was done by an earlier process


class Advance(Protocol):
    """Tells that `n` more units are done; `note` is a short text beside the bar."""

    def __call__(self, n: float, note: str = "") -> None:
        """Add `n` to what is done."""


class Progress(Protocol):
    """What a stage may say about itself."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """One stage of a run, from enter to exit."""

    def task(self, label: str, total: float | None, unit: str) -> AbstractContextManager[Advance]:
        """One piece of counted work: `total` in `unit`, None where it is not known beforehand."""

    def warn(self, text: str) -> None:
        """Something went wrong and was dealt with."""


class SilentProgress:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Nothing on enter, nothing on exit."""
        yield

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Advance]:
        """An `Advance` that forgets."""
        yield lambda n, note="": None

    def warn(self, text: str) -> None:
        """Nothing."""


SILENT: Progress = SilentProgress()


class RichProgress:
    """A bar with rate, time left and note on a terminal; plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """`stream`: where to write, stderr if None."""
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bars: Bars | None = None  # alive while any task is

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Writes `name  seconds` when the stage is done."""
        start = time.monotonic()
        yield
        self._say(f"{_clean(name):<10} {show_seconds(time.monotonic() - start)}")

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Advance]:
        """A bar, or a line every ten seconds, once the work has taken a second."""
        work = _Work(_clean(label), total, unit, start=time.monotonic())
        if not self._live:
            yield lambda n, note="": self._line(work, n, note)
            return
        outermost = self._bars is None
        bars = self._bars = self._bars or _start_bars(self._stream)
        row = bars.add_task(work.label, total=total, work=work)

        def advance(n: float, note: str = "") -> None:
            work.advance(n, note)
            bars.update(row, advance=n)

        try:
            yield advance
        finally:
            bars.remove_task(row)
            if outermost:
                bars.stop()
                self._bars = None

    def warn(self, text: str) -> None:
        """A line of its own."""
        self._say(f"warning: {_clean(text)}")

    def _line(self, work: "_Work", n: float, note: str) -> None:
        work.advance(n, note)
        if work.age() >= work.next_line_seconds:
            work.next_line_seconds = work.age() + _LINE_SECONDS
            self._say(f"  {work.label}: {work.status()}")

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)


@dataclass
class _Work:
    """One task's counts, in units and seconds."""

    label: str
    total: float | None
    unit: str
    start: float
    done: float = 0.0
    resumed: float = 0.0
    note: str = ""
    next_line_seconds: float = _QUIET_SECONDS

    def age(self) -> float:
        return time.monotonic() - self.start

    def advance(self, n: float, note: str) -> None:
        self.done += n
        if self.age() < _RESUME_SECONDS:
            self.resumed = self.done
        self.note = _clean(note) or self.note

    def status(self) -> str:
        """`1.2k/5k block  24%  300/s  13s left  note`; what is not known is left out."""
        if not self.total and not self.done:  # work that counts nothing: the clock runs
            return show_seconds(self.age())
        rate = (self.done - self.resumed) / max(self.age(), 1e-9)
        parts = [self._show(self.done)]
        if self.total:
            shown = self._show(self.done).removesuffix(f" {self.unit}")
            parts = [f"{shown}/{self._show(self.total)}", f"{self.done / self.total:.0%}"]
        if rate > 0:
            parts.append(f"{self._show(rate)}/s")
        if self.total and 0 < self.done < self.total and rate > 0:
            parts.append(f"{show_seconds((self.total - self.done) / rate)} left")
        return "  ".join([*parts, self.note]).rstrip()

    def _show(self, amount: float) -> str:
        if self.unit == "B":
            return show_bytes(amount)
        return f"{show_count(float(amount))} {self.unit}"


def _start_bars(stream: TextIO) -> "Bars":
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Status(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["work"].status())

    class PatientBars(Bars):
        def get_renderables(self) -> Iterator[RenderableType]:
            old = [t for t in self.tasks if t.fields["work"].age() >= _QUIET_SECONDS]
            yield self.make_tasks_table(old)

    bars = PatientBars(
        TextColumn("  {task.description}", markup=False),
        BarColumn(bar_width=20),
        Status(table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,  # results go to stdout and stay there
    )
    bars.start()
    return bars


def _clean(text: str) -> str:
    """Without control characters: notes may hold corpus text, which must not drive a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Without the remarks that native libraries write past Python to the screen."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
