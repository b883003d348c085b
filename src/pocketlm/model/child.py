"""A child in memory: a stock transformers architecture as plain numbers and tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketlm.model.shape import Shape, shape_of

if TYPE_CHECKING:  # torch and transformers take seconds to import; only computing needs them
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Child:
    """Weights by name, float32, and the `config.json` they belong to. A tied head is not stored."""

    config: Mapping[str, Any]
    tensors: Mapping[str, "torch.Tensor"]

    @property
    def shape(self) -> Shape:
        """The architecture in numbers."""
        return shape_of(self.config)

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, as an opened checkpoint gives it."""
        return self.tensors[name]

    def network(self, *, attention: str = "sdpa") -> "PreTrainedModel":
        """A fresh transformers model with these weights, float32, in eval mode.

        `attention` is a transformers attention implementation. Raises `StageError` unless every
        key matches: nothing missing, nothing left over.
        """
        from pocketlm.model.network import build_network

        return build_network(self.config, self.tensors, attention=attention)
