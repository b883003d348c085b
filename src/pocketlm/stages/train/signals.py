"""SIGTERM and Ctrl-C while training: remember, finish the step, then stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the block a signal only sets a flag, which the yielded function reads; one that came
    too late to be read is sent again as the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals belong to the main thread
        return
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    watched = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, remember) for number in watched]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
    if seen:  # nobody looked any more, and nothing was raised
        signal.raise_signal(seen[-1])
