"""Stage 4: drawing half of many blocks without replacement, p = softmax(loss).

`resample_8e8_s` is wall time on all cores (OMP_NUM_THREADS, if set) of all that a round needs: the
effective size, the draw, the list of numbers. The peak is the whole process's, the losses (two
bytes each) included. --quick draws from 2e7 and names its keys after that.
"""

import os
import resource
import time

import numpy as np

from _form import Numbers, main
from pocketlm.stages.train.draw import draw, effective_size, numbers_of

BLOCKS = 781_250_000  # 1.6e12 tokens of 2,048


def measure(quick: bool) -> Numbers:
    """Seconds and memory; shares of three groups against the race of exponentials."""
    num_blocks, name = (20_000_000, "2e7") if quick else (BLOCKS, "8e8")
    loss_N = _losses(num_blocks)
    wall, cpu = time.perf_counter(), time.process_time()
    effective = effective_size(loss_N)
    scored = time.process_time()
    bits = draw(loss_N, num_units=num_blocks, num_drawn=num_blocks // 2, key=7)
    drawn = time.process_time()
    number_K = numbers_of(bits, num_blocks)
    done = time.process_time()
    seconds = time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        f"resample_{name}_s": seconds,
        f"resample_{name}_peak_gb": peak / 1e9,
        f"resample_{name}_cpu_s": done - cpu,
        "effective_size_cpu_s": scored - cpu,
        "draw_cpu_s": drawn - scored,
        "numbers_cpu_s": done - drawn,
        "blocks": num_blocks,
        "drawn": number_K.size,
        "effective_share": effective / num_blocks,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "odds_error": _odds_error(loss_N, number_K),
    }


def _losses(num_blocks: int) -> np.ndarray:
    """Normal losses around 3 nats, 0.4 apart, as single blocks have them; float16."""
    rng, step = np.random.default_rng(0), 2**20
    loss_N = np.empty(num_blocks, np.float16)
    for start in range(0, num_blocks, step):
        size = min(step, num_blocks - start)
        loss_N[start : start + size] = 3 + 0.4 * rng.standard_normal(size, dtype=np.float32)
    return loss_N


def _odds_error(loss_N: np.ndarray, number_K: np.ndarray) -> float:
    """Of a million blocks: how far groups of equal loss are from 1 - exp(-c exp(loss)), at most.

    In standard errors; c is fitted on the group in the middle.
    """
    size = 2**20
    is_drawn = np.zeros(size, bool)
    is_drawn[number_K[: np.searchsorted(number_K, size)]] = True
    loss = loss_N[:size].astype(np.float64)
    groups = [np.abs(loss - middle) < 0.02 for middle in (2.4, 2.7, 3.0, 3.3, 3.6)]
    share = [is_drawn[group].mean() for group in groups]
    rate = -np.log1p(-share[2]) / np.exp(loss[groups[2]]).mean()
    expected = [(1 - np.exp(-rate * np.exp(loss[group]))).mean() for group in groups]
    errors = [
        abs(s - e) / np.sqrt(e * (1 - e) / group.sum())
        for s, e, group in zip(share, expected, groups, strict=True)
    ]
    return float(max(errors))


if __name__ == "__main__":
    main(measure)
