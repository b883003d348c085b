"""Stage 4: tokens per CPU second against a plain transformers loop, same shape and data.

One thread by default, so that the ratio holds on a busy machine (set OMP_NUM_THREADS to change it).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from _form import Numbers, best_seconds, main
from pocketlm.corpus.blocks import Blocks
from pocketlm.model.cost import flops_per_token
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.loop import Learner

SHAPE = Shape(
    family="llama", vocab_size=4096, layers=8, hidden=256, heads=4, kv_heads=4, head_dim=64,
    ffn=704, tied=True,
)  # fmt: skip
TOKENS = 2048


def measure(quick: bool) -> Numbers:
    """Ours, plain bfloat16 and plain float32, interleaved; share of this machine's matmul rate."""
    config = base_config(SHAPE, max_positions=512, bos_id=None, eos_id=None)
    child = STARTS["constant"].function(config, SHAPE, torch.Generator().manual_seed(0))
    tokens = np.random.default_rng(0).integers(0, 4096, 64 * 256 + 1).astype(np.uint16)
    blocks = Blocks(tokens, 256)
    learner = Learner(
        child, blocks, TrainTable(seq_len=256, batch_tokens=TOKENS, learning_rate=1e-3), [64]
    )
    block_B = np.arange(TOKENS // 256)
    arms = {"ours": lambda: learner._update(block_B)}
    for dtype in (torch.bfloat16, torch.float32):
        arms[f"plain_{dtype}".replace("torch.", "")] = _plain_step(child, blocks, block_B, dtype)
    for work in arms.values():
        work()  # warm-up
    seconds = best_seconds(arms, 3 if quick else 10)
    numbers = {f"{name}_tokens_per_cpu_s": TOKENS / s for name, s in seconds.items()}
    for name in ("plain_bfloat16", "plain_float32"):
        numbers[f"ratio_to_{name}"] = seconds[name] / seconds["ours"]
    rate = 3 * flops_per_token(SHAPE, 256) * TOKENS / seconds["ours"]
    numbers["gflops"] = rate / 1e9
    numbers["share_of_bf16_matmul"] = rate / _matmul_rate()
    return numbers


def _plain_step(child, blocks, block_B, dtype):  # type: ignore[no-untyped-def]
    """The textbook loop: transformers' own loss, SDPA attention, unfused AdamW."""
    network = child.network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ids = torch.from_numpy(blocks.batch(block_B))[:, :-1]

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _matmul_rate() -> float:
    size = 1536
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    best = best_seconds({"matmul": lambda: a @ b}, 20)["matmul"]
    return 2 * size**3 / best


if __name__ == "__main__":
    main(measure)
