"""One arm of benchmarks/train.py, a process of its own: `_train_arms.py ARM CASE STARTED`.

It makes one step, prints the seconds since STARTED (wall clock), then one step for every line on
stdin, printing its wall and CPU seconds. So the arms take turns and none disturbs another.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from pocketlm.corpus.blocks import Blocks
from pocketlm.model.child import Child
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config
from pocketlm.recipe import TrainTable

VOCAB = 4096


def shape(layers: int, hidden: int, ffn: int) -> Shape:
    """A tied Llama with heads of 64."""
    heads = hidden // 64
    return Shape(
        family="llama", vocab_size=VOCAB, layers=layers, hidden=hidden, heads=heads,
        kv_heads=heads, head_dim=64, ffn=ffn, tied=True,
    )  # fmt: skip


# Name -> shape, tokens of a block, tokens of a step.
CASES = {
    "2m": (shape(4, 192, 512), 256, 4096),
    "8m": (shape(8, 256, 704), 512, 4096),
    "8m_t256": (shape(8, 256, 704), 256, 4096),
    "8m_b2048": (shape(8, 256, 704), 512, 2048),
    "30m": (shape(12, 448, 1216), 512, 4096),
}


def material(case: str) -> tuple[Child, Blocks, int]:
    """The child, random text, and the blocks of a step: the same for every arm."""
    child_shape, seq_len, step_tokens = CASES[case]
    config = base_config(child_shape, max_positions=512, bos_id=None, eos_id=None)
    child = STARTS["constant"].function(config, child_shape, torch.Generator().manual_seed(0))
    text = np.random.default_rng(0).integers(0, VOCAB, 64 * seq_len + 1).astype(np.uint16)
    return child, Blocks(text, seq_len), step_tokens // seq_len


def ours(case: str, *, compiled: bool) -> Iterator[None]:
    """The trainer of pocketlm; a step is all that its loop does for one."""
    from pocketlm.stages.train.loop import Learner

    child, blocks, batch = material(case)
    table = TrainTable(
        seq_len=blocks.seq_len, batch_tokens=batch * blocks.seq_len, learning_rate=1e-3,
        compile=compiled, cross_entropy="full",
    )  # fmt: skip
    learner = Learner(child, blocks, table, [len(blocks)])
    order = np.random.default_rng(0)
    while True:
        learner._update(order.choice(len(blocks), batch, replace=False))
        learner._fetch()
        yield


def plain(case: str, *, dtype: torch.dtype) -> Iterator[None]:
    """The textbook loop: transformers' own loss, SDPA attention, unfused AdamW."""
    child, blocks, batch = material(case)
    network = child.network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ids = torch.from_numpy(blocks.batch(np.arange(batch)))[:, :-1]
    while True:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def hf_trainer(
    case: str, turn: Callable[[], None], attention: str = "sdpa", **flags: object
) -> None:
    """Hugging Face's Trainer, which calls `turn` after every step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Turns(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            turn()

    child, blocks, batch = material(case)
    ids = torch.from_numpy(blocks.batch(np.arange(len(blocks))))[:, :-1]
    arguments = TrainingArguments(
        output_dir="/tmp/unused", use_cpu=True, per_device_train_batch_size=batch,
        max_steps=10**6, learning_rate=1e-3, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, **flags,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in ids]
    network = child.network(attention=attention).train()
    Trainer(network, arguments, train_dataset=rows, callbacks=[Turns()]).train()


BEST = {"bf16": True, "optim": "adamw_torch_fused"}
ARMS: dict[str, Callable[[str, Callable[[], None]], object]] = {
    "ours": lambda case, turn: drive(ours(case, compiled=False), turn),
    "ours_compiled": lambda case, turn: drive(ours(case, compiled=True), turn),
    "plain_bfloat16": lambda case, turn: drive(plain(case, dtype=torch.bfloat16), turn),
    "plain_float32": lambda case, turn: drive(plain(case, dtype=torch.float32), turn),
    "hf_default": hf_trainer,
    "hf_best": lambda case, turn: hf_trainer(case, turn, **BEST),
    "hf_best_eager": lambda case, turn: hf_trainer(case, turn, "eager", **BEST),
    "hf_best_compiled": lambda case, turn: hf_trainer(case, turn, torch_compile=True, **BEST),
    "hf_best_eager_compiled": lambda case, turn: hf_trainer(
        case, turn, "eager", torch_compile=True, **BEST
    ),
}


def drive(steps: Iterator[None], turn: Callable[[], None]) -> None:
    """Make one step after another, as `turn` allows."""
    for _ in steps:
        turn()


def main(arm: str, case: str, started: str) -> None:
    """Report each step and wait for the next line; the end of stdin ends the process."""
    last: list[float] = []

    def turn() -> None:
        if last:
            print(time.perf_counter() - last[0], time.process_time() - last[1], flush=True)
        else:
            print(time.time() - float(started), 0.0, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # a compiler's workers would keep a polite exit waiting
        last[:] = [time.perf_counter(), time.process_time()]

    ARMS[arm](case, turn)


if __name__ == "__main__":
    main(*sys.argv[1:])
