"""SIGTERM and Ctrl-C while training: remember, finish the step, then stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within the block the first signal only sets a flag; the yielded function reads it."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals belong to the main thread
        return
    seen = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        seen.set()

    watched = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, remember) for number in watched]
    try:
        yield seen.is_set
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
