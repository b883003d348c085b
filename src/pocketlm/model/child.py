"""A child: a stock transformers architecture, plain numbers and tensors, held or yet to be read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import StageError
from pocketlm.model.shape import Shape, shape_of

if TYPE_CHECKING:  # torch and transformers take seconds to import; only computing needs them
    import torch
    from transformers import PreTrainedModel


class Unread(Mapping[str, "torch.Tensor"]):
    """Tensors that are made when they are asked for, anew each time, and not kept."""

    def __init__(self, makers: Mapping[str, Callable[[], "torch.Tensor"]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> "torch.Tensor":
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers  # Mapping's own would make the tensor


@dataclass(frozen=True, kw_only=True)
class Child:
    """Weights by name and the `config.json` they belong to. A tied head is not stored."""

    config: Mapping[str, Any]
    tensors: Mapping[str, "torch.Tensor"]
    dtype: str = "float32"
    """Of every tensor. A child that goes straight from its parent's files into its own, `Unread`,
    may have the parent's; whatever computes takes `held`, float32."""

    @property
    def shape(self) -> Shape:
        """The architecture in numbers."""
        return shape_of(self.config)

    def windows(
        self, name: str, rows_R: npt.NDArray[np.int64]
    ) -> "Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]":
        """The rows `rows_R` of a tensor and which they are, as `Checkpoint.windows` gives them."""
        import torch

        yield np.arange(rows_R.size), self.tensors[name][torch.from_numpy(rows_R)]

    def check_finite(self, name: str, numbers: "torch.Tensor") -> None:
        """Raise `StageError` if `numbers`, made from the tensor `name`, hold nan or inf."""
        if not numbers.isfinite().all():
            raise StageError(f"tensor {name} holds nan or inf: its training broke")

    def held(self) -> "Child":
        """The same child with every tensor in memory, float32."""
        if isinstance(self.tensors, dict):
            return self
        wide = self.widened()
        return replace(wide, tensors=dict(wide.tensors))

    def widened(self) -> "Child":
        """The same child in float32; nothing is made yet."""
        if self.dtype == "float32":
            return self
        makers = {name: partial(_widen, self.tensors, name) for name in self.tensors}
        return replace(self, tensors=Unread(makers), dtype="float32")

    def changed(self, makers: Mapping[str, Callable[[], "torch.Tensor"]]) -> "Child":
        """The same child, but for the tensors that `makers` make; nothing is made yet."""
        before = {name: partial(self.tensors.__getitem__, name) for name in self.tensors}
        return replace(self, tensors=Unread({**before, **makers}))

    def network(self, *, attention: str = "sdpa") -> "PreTrainedModel":
        """A fresh transformers model with these weights, float32, in eval mode.

        `attention` is a transformers attention implementation. Raises `StageError` unless every
        key matches: nothing missing, nothing left over.
        """
        from pocketlm.model.network import build_network

        return build_network(self.config, self.tensors, attention=attention)


def _widen(tensors: Mapping[str, "torch.Tensor"], name: str) -> "torch.Tensor":
    return tensors[name].float()
