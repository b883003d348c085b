"""All files of an export appear together, or none does."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".export-"


@contextmanager
def placed_together(folder: Path) -> Iterator[Path]:
    """A folder to write in; what is in it moves to `folder`, whole, when the block ends well.

    An error leaves nothing behind. After a kill the half-written files are in a hidden folder,
    never under their own names, and the next call removes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_PREFIX}*"):
        if not _is_running(left.name.removeprefix(_PREFIX)):
            shutil.rmtree(left, ignore_errors=True)
    work = folder / f"{_PREFIX}{os.getpid()}"
    made, replaced = work / "made", work / "replaced"
    try:
        made.mkdir(parents=True)
        yield made
        replaced.mkdir()
        for path in sorted(made.iterdir()):
            target = folder / path.name
            if target.exists():  # a folder cannot be renamed over another one
                os.rename(target, replaced / path.name)
            os.rename(path, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_running(pid: str) -> bool:
    """Whether a process of that number is there; its number may be another's by now."""
    if not pid.isdigit():
        return False
    with contextlib.suppress(PermissionError):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
    return True
