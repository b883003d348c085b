"""A model of which one layer at a time is real: forward passes through parents of any size.

The transformers model itself runs, with its own masks and positions; every layer but the current
one hands the stream on unread. Held at once: one layer and its activations.
Shapes: B blocks, T tokens, D channels of the stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pocketlm.model.family import TensorRow, load_family, tensors_of
from pocketlm.model.network import hollow_network, layers_of, pass_through
from pocketlm.model.shape import shape_of

if TYPE_CHECKING:
    import torch

Seen = dict[str, tuple["torch.Tensor", "torch.Tensor"]]
"""Row name of a module's weight -> what went in and what came out, each (B, T, width)."""


def is_watched(row: TensorRow) -> bool:
    """Whether a layer's module has its input and output reported: it writes to the stream, or it
    is a norm over the stream."""
    return row.name.endswith(".weight") and (
        row.writes_residual or (row.per_layer and row.part == "norms" and row.axes == ("hidden",))
    )


def watched_rows(family: str) -> list[TensorRow]:
    """Those rows, in the order the stream meets them."""
    return [row for row in load_family(family).tensors if is_watched(row)]


class OneLayer:
    """Runs single layers of a model whose tensors stay elsewhere until their layer's turn."""

    def __init__(self, config: Mapping[str, Any], read: Callable[[str], "torch.Tensor"]) -> None:
        """`read` gives a tensor by its full name, in any dtype; computing is float32."""
        import torch

        self._read = read
        self._shape = shape_of(config)
        self._family = load_family(self._shape.family)
        self._network = hollow_network(config)
        self._seen: Seen = {}
        self._current = layers_of(self._network, self._shape.family)
        self._layers = list(self._current)
        for layer in range(len(self._layers)):
            self._current[layer] = pass_through()
        self._network.set_submodule(
            self._family.final_norm.removesuffix(".weight"), torch.nn.Identity()
        )

    def load(self, layer: int) -> "torch.nn.Module":
        """Make `layer` real and every other hollow; returns it."""
        import torch

        for number in range(len(self._layers)):
            if not getattr(self._current[number], "passes", False):
                self._current[number].to_empty(device="meta")
                self._current[number] = pass_through()
        names = [
            placed.row.name.format(layer=layer)
            for placed in tensors_of(replace(self._shape, layers=1))
            if placed.row.per_layer
        ]
        prefix = names[0].partition(f".{layer}.")[0] + f".{layer}."
        tensors = {n.removeprefix(prefix): self._read(n).to(torch.float32) for n in names}
        module: torch.nn.Module = self._layers[layer]
        module.load_state_dict(tensors, strict=True, assign=True)
        self._watch(layer, module, prefix)
        self._current[layer] = module
        return module

    def run(self, stream_BTD: "torch.Tensor") -> tuple["torch.Tensor", Seen]:
        """The stream after the current layer, and what its watched modules saw."""
        import torch

        self._seen.clear()
        with torch.no_grad():
            out = self._network.base_model(inputs_embeds=stream_BTD, use_cache=False)
        return out.last_hidden_state, dict(self._seen)

    def _watch(self, layer: int, module: "torch.nn.Module", prefix: str) -> None:
        for row in watched_rows(self._shape.family):
            path = row.name.format(layer=layer).removeprefix(prefix).removesuffix(".weight")
            watched: Any = module.get_submodule(path)
            watched._forward_hooks.clear()

            def note(_: Any, inputs: Any, output: Any, name: str = row.name) -> None:
                self._seen[name] = (inputs[0], output)

            watched.register_forward_hook(note)
