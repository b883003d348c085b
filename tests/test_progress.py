"""Progress: silent when asked, a bar on terminals, plain lines elsewhere, never a control code."""

import io
from types import SimpleNamespace

import pytest

from pocketlm import progress
from pocketlm.progress import SILENT, Progress, RichProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; the tests move it."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.stage("train"), SILENT.task("round", 10, "step") as advance:
        advance(3, note="loss 2")
    assert capsys.readouterr() == ("", "")


def test_short_work_leaves_only_the_stage(clock: list[float]) -> None:
    stream = io.StringIO()
    _work(RichProgress(stream), clock, seconds_per_step=0.01)
    assert stream.getvalue().split() == ["compact", "0.1s"]


def test_plain_lines_are_occasional(clock: list[float]) -> None:
    stream = io.StringIO()
    _work(RichProgress(stream), clock, seconds_per_step=3.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  tokenise: 1/10 doc  10%  0.333 doc/s  27s left  note 0"
    assert len(lines) == 4, "one after a second, then one in ten seconds, then the stage"


def test_notes_cannot_drive_the_terminal(clock: list[float]) -> None:
    stream = io.StringIO()
    with RichProgress(stream).task("a\x1b[2Jb", None, "doc") as advance:
        clock[0] += 2
        advance(1, note="red\x1b[31m\r\nnext\x07")
    assert stream.getvalue().splitlines() == ["  a [2Jb: 1 doc  0.5 doc/s  red [31m  next"]


def test_what_an_earlier_process_did_is_not_counted_as_speed(clock: list[float]) -> None:
    stream = io.StringIO()
    with RichProgress(stream).task("train", 1000, "step") as advance:
        advance(900)
        clock[0] += 10
        advance(10)
    assert "91%  1 step/s  1m 30s left" in stream.getvalue()


def test_bytes_are_shown_as_bytes(clock: list[float]) -> None:
    stream = io.StringIO()
    with RichProgress(stream).task("read", 4e6, "B") as advance:
        clock[0] += 2
        advance(1e6)
    assert "1 MB/4 MB  25%  500 kB/s" in stream.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    stream = Terminal()
    bars = RichProgress(stream)
    with (
        bars.stage("train"),
        bars.task("round [1]", 2, "step") as advance,
        bars.task("inner", None, "doc"),
    ):
        advance(1, note="[red]loss[/red]")
        assert bars._bars is not None
        bars._bars.refresh()
    assert bars._bars is None
    text = stream.getvalue()
    assert "round [1]" in text
    assert "[red]loss[/red]" in text, "notes are text, not markup"
    assert text.splitlines()[-1].startswith("train")


def test_a_failed_task_stops_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    bars = RichProgress(Terminal())
    with pytest.raises(ZeroDivisionError), bars.task("x", 1, "step"):
        _ = 1 / 0
    assert bars._bars is None


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with RichProgress().stage("export"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("export")


def _work(progress: Progress, clock: list[float], *, seconds_per_step: float) -> None:
    with progress.stage("compact"), progress.task("tokenise", 10, "doc") as advance:
        for number in range(10):
            clock[0] += seconds_per_step
            advance(1, note=f"note {number}")
