"""Batches read ahead: while a step computes, the next one's ids are gathered by a thread.

Shapes: B blocks, T = seq_len tokens.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from pocketlm.corpus.blocks import Blocks, IntArray

Batch = tuple[torch.Tensor, torch.Tensor | None]
"""Ids (B, T + 1) of blocks, and the place of each input in its document (B, T) where asked for."""


class Reader:
    """Blocks on the device; those announced by `expect` are there already."""

    def __init__(self, blocks: Blocks, device: torch.device, *, places: bool) -> None:
        self._blocks, self._device, self._places = blocks, device, places
        # A thread begins on the first GPU; memory is pinned for the one that is used.
        gpu = torch.cuda.current_device() if device.type == "cuda" else None
        begin = None if gpu is None else partial(torch.cuda.set_device, gpu)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-batch", initializer=begin)
        self._coming: dict[bytes, Future[Batch]] = {}

    def expect(self, block_B: IntArray) -> None:
        """Begin to read these blocks; what was expected and not taken is dropped."""
        coming = self._thread.submit(self._gather, self._blocks, block_B)
        self._coming = {block_B.tobytes(): coming}

    def take(self, block_B: IntArray) -> Batch:
        """The given training blocks on the device."""
        coming = self._coming.pop(block_B.tobytes(), None)
        return self.read(self._blocks, block_B) if coming is None else self._send(coming.result())

    def read(self, blocks: Blocks, block_B: IntArray) -> Batch:
        """Some of any blocks on the device, read now."""
        return self._send(self._gather(blocks, block_B))

    def _gather(self, blocks: Blocks, block_B: IntArray) -> Batch:
        place_BT = self._pinned(blocks.positions(block_B)) if self._places else None
        return self._pinned(blocks.batch(block_B)), place_BT

    def _pinned(self, array: IntArray) -> torch.Tensor:
        # Only from pinned memory is a copy to the GPU made beside the computing.
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _send(self, batch: Batch) -> Batch:
        ids_BT1, place_BT = batch
        if place_BT is not None:
            place_BT = place_BT.to(self._device, non_blocking=True)
        return ids_BT1.to(self._device, non_blocking=True), place_BT
