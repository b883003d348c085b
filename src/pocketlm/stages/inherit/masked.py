"""A model under masks: every unit times a gate, and at gates of zero and one what the cut computes.

Hooks on a transformers model, no copy of its code. A channel's gate multiplies all that is written
to the stream; norms take their means over the channels (OLMo 2: the heads) that are left, as the
cut model's will. A neuron's or head's gate multiplies what goes into the output matrix, a K/V
head's the heads of its group, a layer's what the layer adds to the stream.
Shapes: B blocks (or 1, the same gates for all), T tokens; L layers, F neurons, H heads, K K/V
heads, D channels, W entries of a norm.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.model.family import Axis, load_family
from pocketlm.model.network import layers_of
from pocketlm.model.shape import Shape
from pocketlm.stages.inherit.neurons import Units

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Gates = Mapping[str, "torch.Tensor"]
"""`hidden` (B, D), `ffn` (B, L, F), `heads` (B, L, H), `kv_heads` (B, L, K), `layers` (B, L); what
is not there is not masked."""


def gates_of(units: Units, shape: Shape) -> dict[str, "torch.Tensor"]:
    """Gates of one for `units` of a model of `shape` whose layers are the kept ones; else zero."""
    import torch

    kept = {"ffn": units.ffn, "heads": units.heads, "kv_heads": units.kv_heads}
    sizes = {"ffn": shape.ffn, "heads": shape.heads, "kv_heads": shape.kv_heads}
    gates = {"hidden": torch.from_numpy(np.isin(np.arange(shape.hidden), units.hidden)[None])}
    for kind, kept_LU in kept.items():
        rows = [np.isin(np.arange(sizes[kind]), kept_U) for kept_U in kept_LU]
        gates[kind] = torch.from_numpy(np.stack(rows)[None])
    return {kind: gate.float() for kind, gate in gates.items()}


class MaskedNetwork:
    """A network whose units are multiplied by `gates`, whoever calls it."""

    def __init__(self, network: "PreTrainedModel", shape: Shape) -> None:
        """`network` is of `shape`; its hooks stay, and do nothing while there are no gates."""
        self.network = network
        self._shape = shape
        self.gates: Gates = {}
        """Of the calls that follow."""
        layers = layers_of(network, shape.family)
        network.get_input_embeddings().register_forward_hook(self._mask_stream)
        for row in load_family(shape.family).tensors:
            is_norm = row.part == "norms" and row.name.endswith(".weight")
            if not is_norm and not row.writes_residual:
                continue
            for layer in range(shape.layers) if row.per_layer else (None,):
                path = row.name.format(layer=layer).removesuffix(".weight")
                module = network.get_submodule(path)
                if is_norm and row.axes[0] != "head_dim":
                    self._watch_norm(module, row.axes[0], layer)
                elif row.writes_residual:
                    module.register_forward_hook(self._mask_stream)
                    module.register_forward_pre_hook(self._mask_units(row.axes[1], layer))
        for layer in range(shape.layers):
            layers[layer].register_forward_hook(self._mask_layer(layer))

    def _gate(self, axis: Axis, layer: int | None) -> "torch.Tensor | None":
        """The gates along the entries of `axis`, (B, 1, entries), or None where it has none."""
        gates, shape = self.gates, self._shape
        if axis == "hidden":
            return gates["hidden"][:, None] if "hidden" in gates else None
        found: torch.Tensor | None = None
        if axis == "ffn" and "ffn" in gates:
            found = gates["ffn"][:, layer]
        elif axis in ("heads", "kv_heads"):
            group = shape.heads // shape.kv_heads if axis == "heads" else 1
            if "kv_heads" in gates:
                found = gates["kv_heads"][:, layer].repeat_interleave(group, dim=-1)
            if axis == "heads" and "heads" in gates:
                heads_BH = gates["heads"][:, layer]
                found = heads_BH if found is None else heads_BH * found
            if found is not None:
                found = found.repeat_interleave(shape.head_dim, dim=-1)
        return None if found is None else found[:, None]

    def _mask_stream(self, _: Any, __: Any, output_BTD: "torch.Tensor") -> "torch.Tensor":
        gate = self._gate("hidden", None)
        return output_BTD if gate is None else output_BTD * gate

    def _mask_units(self, axis: Axis, layer: int | None) -> Any:
        def mask(_: Any, inputs: "tuple[torch.Tensor]") -> "tuple[torch.Tensor]":
            gate = self._gate(axis, layer)
            return inputs if gate is None else (inputs[0] * gate,)

        return mask

    def _mask_layer(self, layer: int) -> Any:
        def mask(_: Any, inputs: Any, output_BTD: "torch.Tensor") -> "torch.Tensor":
            if "layers" not in self.gates:
                return output_BTD
            gate_B11 = self.gates["layers"][:, layer, None, None]
            stream_BTD: torch.Tensor = inputs[0]
            return stream_BTD + gate_B11 * (output_BTD - stream_BTD)

        return mask

    def _watch_norm(self, norm: "torch.nn.Module", axis: Axis, layer: int | None) -> None:
        """Make `norm` divide by the mean over what is left of its W entries, W' by their gates.

        It divides x sqrt(W / W') by that mean times sqrt(W / W'), so it is given that and its
        answer divided again. Where it takes the mean away too, what left is filled with the mean of
        what is left, which then is the mean of all.
        """
        import torch

        bias: Any = getattr(norm, "bias", None)
        centres = isinstance(norm, torch.nn.LayerNorm)

        def before(_: Any, inputs: "tuple[torch.Tensor]") -> "tuple[torch.Tensor]":
            gate = self._gate(axis, layer)
            if gate is None:
                return inputs
            # The stream is masked where it is written; queries and keys are not.
            left = inputs[0] if axis == "hidden" else inputs[0] * gate
            if centres:
                mean_BT1 = left.sum(-1, keepdim=True) / gate.sum(-1, keepdim=True).clamp_min(1e-6)
                left = left + (1 - gate) * mean_BT1
            return (left / _root_share(gate),)

        def after(_: Any, __: Any, output: "torch.Tensor") -> "torch.Tensor":
            gate = self._gate(axis, layer)
            if gate is None:
                return output
            if bias is None:
                return output * _root_share(gate)
            mended: torch.Tensor = ((output - bias) * _root_share(gate) + bias) * gate
            return mended

        norm.register_forward_pre_hook(before)
        norm.register_forward_hook(after)


def _root_share(gate: "torch.Tensor") -> "torch.Tensor":
    """sqrt(W' / W): how many entries are left, of all, (B, 1, 1); never zero."""
    share: torch.Tensor = gate.mean(-1, keepdim=True).clamp_min(1e-6).sqrt()
    return share
