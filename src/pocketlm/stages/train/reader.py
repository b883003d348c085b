"""Batches read ahead: while a step computes, the next one's ids are gathered by a thread."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from pocketlm.corpus.blocks import Blocks, IntArray


class Reader:
    """Ids of blocks on the device; those announced by `expect` are there already."""

    def __init__(self, blocks: Blocks, device: torch.device) -> None:
        self._blocks, self._device = blocks, device
        # A thread begins on the first GPU; memory is pinned for the one that is used.
        gpu = torch.cuda.current_device() if device.type == "cuda" else None
        begin = None if gpu is None else partial(torch.cuda.set_device, gpu)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-batch", initializer=begin)
        self._coming: dict[bytes, Future[torch.Tensor]] = {}

    def expect(self, block_B: IntArray) -> None:
        """Begin to read these blocks; what was expected and not taken is dropped."""
        self._coming = {block_B.tobytes(): self._thread.submit(self._read, block_B)}

    def take(self, block_B: IntArray) -> torch.Tensor:
        """Ids (B, T + 1) of these blocks on the device."""
        coming = self._coming.pop(block_B.tobytes(), None)
        ids_BT1 = self._read(block_B) if coming is None else coming.result()
        return ids_BT1.to(self._device, non_blocking=True)

    def _read(self, block_B: IntArray) -> torch.Tensor:
        ids_BT1 = torch.from_numpy(self._blocks.batch(block_B))
        # Only from pinned memory is a copy to the GPU made beside the computing.
        return ids_BT1.pin_memory() if self._device.type == "cuda" else ids_BT1
