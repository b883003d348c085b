"""One cut in a process of its own: `_inherit_once.py PARENT OUT SHAPE.json NEURONS` -> JSON.

Seconds from opening the parent to the child's last byte handed to the system, then those until the
disk has it; imports are not counted. The peak is the most memory that was resident at once, mapped
file pages included.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch  # noqa: F401  (imported before the clock starts)
import transformers

from pocketlm.model.checkpoint import open_checkpoint, save_child
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit import inherit_unread


def main(parent: str, out: str, shape_json: str, neurons: str) -> None:
    """Cut, write, print."""
    transformers.AutoConfig.for_model("llama")  # imports what the cut will use
    shape = Shape(**json.loads(Path(shape_json).read_text()))
    started, cpu = time.monotonic(), time.process_time()
    child = inherit_unread(
        open_checkpoint(parent),
        shape,
        np.arange(shape.vocab_size),
        rng=np.random.default_rng(0),
        neurons=neurons,
    )
    scored = time.monotonic()
    save_child(child, Path(out))
    written, written_cpu = time.monotonic(), time.process_time()
    for path in Path(out).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    numbers = {
        "score_s": scored - started,
        "total_s": written - started,
        "cpu_s": written_cpu - cpu,
        "sync_s": time.monotonic() - written,
        "peak_mb": _peak_bytes() / 1e6,
    }
    print(json.dumps(numbers))


def _peak_bytes() -> int:
    """Of this program alone: what getrusage says on Linux begins with the size of its parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
