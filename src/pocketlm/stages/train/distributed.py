"""Several processes train one child: who computes what, and how they stay of one mind.

torchrun starts the processes (ranks) and numbers them; torch.distributed carries numbers between
them, by gloo between processors and by nccl between GPUs. Every rank holds the whole child and the
same ledger, log and draws, and computes its part of each step's blocks. What a clock, a signal or a
library's last digit could decide differently is decided by one for all. Rank 0 alone writes.

Shapes: B blocks of all ranks, P of them this rank's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from pocketlm.corpus.blocks import IntArray
from pocketlm.errors import RecipeError, StageError
from pocketlm.hardware import has_cuda, ranks

T = TypeVar("T")
FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Team:
    """The processes at work on one child, seen from one of them; alone, nothing is sent."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Team":
        """The team of this process: torch.distributed's, where that has begun."""
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    def part(self, block_B: IntArray) -> IntArray:
        """This rank's share of these blocks, shape (P,): equal pieces in order, the last smaller
        or empty."""
        piece = -(-block_B.size // self.size)
        return block_B[self.rank * piece : (self.rank + 1) * piece]

    def gather(self, value_P: torch.Tensor, num_blocks: int) -> torch.Tensor:
        """The values of all ranks' parts of `num_blocks`, in the order of the blocks, on every
        rank."""
        if self.size == 1:
            return value_P
        piece = -(-num_blocks // self.size)
        padded = value_P.new_zeros(piece)
        padded[: len(value_P)] = value_P
        value_B = value_P.new_empty(piece * self.size)
        dist.all_gather_into_tensor(value_B, padded)
        return value_B[:num_blocks]

    def shared(self, losses: Callable[[IntArray], FloatArray], block_B: IntArray) -> FloatArray:
        """`losses(block_B)`, each rank computing its part."""
        if self.size == 1:
            return losses(block_B)
        part_P = self.part(block_B)
        found_P = losses(part_P) if part_P.size else np.empty(0, np.float32)
        gathered: FloatArray = self.gather(torch.from_numpy(found_P).float(), block_B.size).numpy()
        return gathered

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, raised where any rank raised it."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised)

    def of_first(self, value: T) -> T:
        """Rank 0's value on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def array_of_first(self, array: T) -> T:
        """Rank 0's numbers, written over `array`, a numpy array of the same kind on every rank."""
        if self.size > 1:
            dist.broadcast(torch.from_numpy(array), src=0)
        return array

    def check_same_step(self, step: int) -> None:
        """Raises `StageError` where ranks would go on from different steps."""
        steps: list[Any] = [step] * self.size
        if self.size > 1:
            dist.all_gather_object(steps, step)
        if len(set(steps)) > 1:
            raise StageError(
                f"the ranks found checkpoints of steps {steps}; --out must be one folder that "
                "every machine sees"
            )

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))


ALONE = Team()


@contextmanager
def joined() -> Iterator[Team]:
    """Join the team that torchrun's environment describes, and leave it.

    Raises `RecipeError` where this machine has fewer GPUs than ranks.
    """
    if has_cuda():
        if ranks().number_here >= torch.cuda.device_count():
            raise RecipeError(
                f"--nproc-per-node: this machine has {torch.cuda.device_count()} GPUs, one for "
                "each process; start as many"
            )
        torch.cuda.set_device(ranks().number_here)
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_cuda() else "gloo")
    try:
        yield Team.current()
    finally:
        dist.destroy_process_group()
