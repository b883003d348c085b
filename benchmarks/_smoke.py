"""The smoke pass: 200 questions of each of the paper's ten benchmarks, asked of a real model.

As `pocketlm evaluate --model DIR --data DIR --set evaluate.items=200` does it, alone in a process:
CPU seconds of one thread say how long it takes where nothing else runs.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _form import Numbers

ITEMS = 200


def measure(model: Path, data: Path, items: int = ITEMS) -> Numbers:
    """CPU seconds, wall seconds, items and tokens of the pass; tokenising and start included."""
    code = f"from _smoke import run_once; run_once({str(model)!r}, {str(data)!r}, {items})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: Numbers = json.loads(done.stdout.splitlines()[-1])
    return {f"smoke_{name}": value for name, value in found.items()}


def run_once(model: str, data: str, items: int) -> None:
    """Print the numbers as JSON."""
    from pocketlm.evaluating import evaluate_model, read_request
    from pocketlm.stages.evaluate.tasks import TASKS

    started = time.monotonic()
    ten = ",".join(name for name, task in TASKS.items() if task.in_paper)
    settings = [f"evaluate.items={items}"]
    request = read_request(Path(model), data=Path(data), tasks=ten, corpus=(), settings=settings)
    found = evaluate_model(request)
    tasks = found.benchmarks["models"]["child"]["tasks"] if found.benchmarks else []
    read, saved = (found.scores[f"model.benchmark_tokens{end}"].value for end in ("", "_saved"))
    numbers = {
        "pass_s": time.process_time(),
        "wall_s": time.monotonic() - started,
        "items": sum(task["num_items"] for task in tasks),
        "params": found.scores["model.params"].value,
        "tokens_read": read,
        "saving": (read + saved) / read,
    }
    print(json.dumps(numbers))
