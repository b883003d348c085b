"""The frame: how long `--help`, a reused `make` and a plan take, as whole processes."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _form import Numbers, main

RECIPE = """
name = "bench"
tokenizer = { train = 512 }
corpus = { files = ["stdlib"], max_bytes = 200_000 }
design.shape = { layers = 2, hidden = 32, heads = 2, kv_heads = 1, ffn = 64 }
train = { rounds = 1, seq_len = 64, batch_tokens = 2048, learning_rate = 1e-2 }
evaluate = { max_bytes = 20_000, speed_tokens = 8, sample_tokens = 8 }
"""


def measure(quick: bool) -> Numbers:
    """Seconds of a first make, a second one that reuses all, `plan` and `--help`."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "bench.toml"
        recipe.write_text(RECIPE)
        out = ["--out", folder]
        first = _seconds(["make", str(recipe), "-q", *out])
        again = ["make", str(recipe), "-q", "--json", *out]
        repeats = 3 if quick else 10
        numbers = {
            "first_make_s": first,
            "second_make_s": min(_seconds(again) for _ in range(repeats)),
            "plan_s": min(_seconds(["plan", str(recipe), *out]) for _ in range(repeats)),
            "help_s": min(_seconds(["--help"]) for _ in range(repeats)),
        }
        done = subprocess.run([*_command(), *again], capture_output=True, text=True, check=True)
        numbers["reused_artifacts"] = len(json.loads(done.stdout)["reused"])
    return numbers


def _command() -> list[str]:
    return [sys.executable, "-m", "pocketlm"]


def _seconds(arguments: list[str]) -> float:
    started = time.monotonic()
    subprocess.run([*_command(), *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main(measure)
