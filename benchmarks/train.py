"""Stage 4: the step against Hugging Face's Trainer and a plain loop; drawing 8 x 10^8 blocks.

Arms are processes that take turns, a step each, with the same shape, text and threads; the least
seconds of each count. One thread by default and CPU seconds, so that ratios hold on a busy machine;
with OMP_NUM_THREADS set to more, wall seconds, and the machine must be idle. Ours is started as the
command line starts it, with PROCESS_SETTINGS; `hf_best_*_tuned` shares those settings.
`vs_hf_trainer` is against the fastest set of Trainer's own flags (bf16, fused AdamW, compile, one
attention or the other), `vs_hf_trainer_default` against none. CASES=8m,2m in the environment takes
some of the cases. `--quick` compiles nothing (`compiled` is 0) and draws 2 x 10^7. The Trainer
needs accelerate (extra `bench`); without it those numbers are absent.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from _form import Numbers, best_seconds, main
from _train_arms import CASES
from pocketlm.corpus.blocks import Blocks
from pocketlm.hardware import PROCESS_SETTINGS
from pocketlm.model.cost import training_flops_per_token

THREADS = int(os.environ["OMP_NUM_THREADS"])
QUICK = {"2m": ("ours", "hf_best", "hf_default")}
PAIRS = ("ours_compiled", "ours", "hf_best_compiled", "hf_best_eager_compiled")
FULL = {
    "8m": (*PAIRS, "hf_best_compiled_tuned", "hf_default", "plain_bfloat16", "plain_float32"),
    "8m_t256": PAIRS,
    "8m_b2048": PAIRS,
    "2m": PAIRS,
    "30m": PAIRS,
}
HEADLINE = {True: "2m", False: "8m"}


def measure(quick: bool) -> Numbers:
    """Tokens a second of every arm and case, the ratios of the headline case, and the draw."""
    numbers: Numbers = {"threads": THREADS, "compiled": 0.0 if quick else 1.0}
    chosen = os.environ.get("CASES", "").split(",")
    cases = {case: FULL[case] for case in chosen if case in FULL} or (QUICK if quick else FULL)
    for case, arms in cases.items():
        seconds, first = _steps(case, _possible(arms), 3 if quick else 6)
        shape, seq_len, tokens = CASES[case]
        print(case, {arm: round(tokens / s) for arm, s in seconds.items()}, file=sys.stderr)
        numbers |= {f"{case}_{arm}_tokens_per_s": tokens / s for arm, s in seconds.items()}
        ours = min(s for arm, s in seconds.items() if arm.startswith("ours"))
        rate = training_flops_per_token(shape, seq_len) * tokens / ours
        numbers[f"{case}_gflops"] = rate / 1e9
        best = [s for arm, s in seconds.items() if _is_best(arm)]
        if best:
            numbers[f"{case}_vs_hf_trainer"] = min(best) / ours
        if case != HEADLINE[quick] and len(cases) > 1:
            continue
        numbers |= {"first_step_s": first["ours"], "of_matmul": rate / _matmul_rate()}
        if best:
            numbers["vs_hf_trainer"] = min(best) / ours
        if "hf_default" in seconds:
            numbers["vs_hf_trainer_default"] = seconds["hf_default"] / ours
        for name in ("plain_bfloat16", "plain_float32", "hf_best_compiled_tuned"):
            if name in seconds:
                numbers[f"ratio_to_{name}"] = seconds[name] / ours
    return numbers | _draw(quick) | {"read_tokens_per_s": _reading()}


def _is_best(arm: str) -> bool:
    return arm.startswith("hf_best") and not arm.endswith("tuned")


def _possible(arms: tuple[str, ...]) -> list[str]:
    if find_spec("accelerate"):
        return list(arms)
    print("no accelerate, so no Trainer: pip install 'pocketlm[bench]'", file=sys.stderr)
    return [arm for arm in arms if not arm.startswith("hf")]


def _steps(case: str, arms: list[str], repeats: int) -> tuple[Numbers, Numbers]:
    """Least seconds of a step, and seconds from the start to the first step, of each arm."""
    running, first = {}, {}
    for arm in arms:  # one after another: starting and compiling is part of `first_step_s`
        running[arm] = _start(arm, case)
        first[arm] = _answer(running[arm])[0]
    least = dict.fromkeys(arms, float("inf"))
    for turn in range(repeats + 1):
        for arm, process in running.items():
            process.stdin.write("\n")
            process.stdin.flush()
            wall, cpu = _answer(process)
            if turn:  # the first of them warms caches up
                least[arm] = min(least[arm], cpu if THREADS == 1 else wall)
    for process in running.values():
        process.stdin.close()
        process.wait()
    return least, first


def _start(arm: str, case: str):  # type: ignore[no-untyped-def]  # a Popen of text
    tuned = arm.startswith("ours") or arm.endswith("_tuned")
    environ = {k: v for k, v in os.environ.items() if k not in PROCESS_SETTINGS}
    script = Path(__file__).with_name("_train_arms.py")
    command = [sys.executable, str(script), arm.removesuffix("_tuned"), case, str(time.time())]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environ | PROCESS_SETTINGS if tuned else environ,
    )  # fmt: skip


def _answer(process) -> list[float]:  # type: ignore[no-untyped-def]  # a Popen of text
    """The next line of numbers; other programs print there too."""
    for line in process.stdout:
        try:
            return [float(word) for word in line.split()]
        except ValueError:
            continue
    raise RuntimeError(f"an arm ended by itself: {' '.join(process.args)}")


def _matmul_rate() -> float:
    """bfloat16 FLOP/s of a square product that fits the caches, by the clock of the arms."""
    size = 1536
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    if THREADS == 1:
        return 2 * size**3 / best_seconds({"matmul": lambda: a @ b}, 20)["matmul"]
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _draw(quick: bool) -> Numbers:
    """Seconds and peak GB of drawing half of the blocks: benchmarks/resample.py, by itself."""
    script = Path(__file__).with_name("resample.py")
    command = [sys.executable, str(script), "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: Numbers = json.loads(done.stdout.splitlines()[-1])
    return {name: value for name, value in found.items() if name.startswith("resample_")}


def _reading() -> float:
    """Tokens a CPU second gathered into batches, from memory."""
    blocks = Blocks(np.zeros(10**7, np.uint16), 512)
    order = np.random.default_rng(0).permutation(len(blocks))[:1024]
    return 1024 * 512 / best_seconds({"read": lambda: blocks.batch(order)}, 5)["read"]


if __name__ == "__main__":
    main(measure)
