"""The one form of every benchmark: `python benchmarks/NAME.py [--quick] [--json]`.

A benchmark is a function `quick -> flat dict of numbers`. Arms are interleaved in one process and
compared as ratios, since a machine's speed drifts; `--quick` ends within 45 seconds; `--json`
prints the numbers as one object on the last line.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

Numbers = dict[str, float]


def main(measure: Callable[[bool], Numbers]) -> None:
    """Parse the two options, measure, print."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 45 seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    started = time.monotonic()
    numbers = measure(options.quick)
    numbers |= {"load_before": load, "seconds": time.monotonic() - started}
    for name, value in numbers.items():
        print(f"{name:<40} {value:.4g}")
    if options.json:
        print(json.dumps({name: round(value, 6) for name, value in numbers.items()}))


def best_seconds(arms: dict[str, Callable[[], object]], repeats: int) -> Numbers:
    """Least CPU seconds of each arm over `repeats` rounds, the arms taking turns."""
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(repeats):
        for name, work in arms.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    return best
