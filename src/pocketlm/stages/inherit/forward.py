"""Statistics of one forward pass, layer after layer: what neurons, heads and channels carry.

Sources: Minitron (arXiv 2407.14679, section 2.2) for `activation`, ShortGPT (arXiv 2403.03853,
equation 1) for influence, Gromov et al. (arXiv 2403.17887, equation 7) for angular distance;
`energy` and the moments of the normalised stream are ours.
Shapes: B of N blocks, T tokens; M norms, L layers, U units (F neurons or H heads) of E entries,
D channels.
"""

from typing import TYPE_CHECKING

import numpy as np

from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.family import load_family
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.inherit.calibration import Array, Indices, norm_names
from pocketlm.stages.inherit.one_layer import OneLayer, Seen, watched_rows

if TYPE_CHECKING:
    import torch

BATCH_BLOCKS = 8


def forward_statistics(
    parent: Checkpoint, kept_V: Indices, ids_NT1: Indices, *, progress: Progress = SILENT
) -> dict[str, Array]:
    """Every statistic that needs no gradient, in one pass over the parent.

    `ffn.activation`, `ffn.energy` (L, F); `heads.activation`, `heads.energy` (L, H);
    `hidden.activation`, `hidden.energy` (D); `influence` (L): 1 - mean cosine of a layer's input
    and output; `distance` (L + 1, L + 1): angle / pi between the streams before layers i and j at
    the last token of a block; `moment` (D, D): second moments of the stream in front of the norms,
    divided by its own root mean square, mean over tokens and norms.
    """
    import torch

    sums = _Sums(parent)
    stream_NTD = embed(parent, kept_V[ids_NT1[:, :-1]])
    one_layer = OneLayer(parent.config, parent.read_finite)
    last_LND = [stream_NTD[:, -1].clone()]
    with progress.task("calibrate", parent.shape.layers, "layers") as advance:
        for layer in range(parent.shape.layers):
            one_layer.load(layer)
            sums.start(layer)
            for before_BTD in torch.split(stream_NTD, BATCH_BLOCKS):
                after_BTD, seen = one_layer.run(before_BTD)
                sums.add(before_BTD, after_BTD, seen)
                before_BTD.copy_(after_BTD)  # a view: the stream moves on in place
            last_LND.append(stream_NTD[:, -1].clone())
            advance(1)
    for batch_BTD in torch.split(stream_NTD, BATCH_BLOCKS):
        sums.add_norm(batch_BTD)
    num_tokens = stream_NTD.shape[0] * stream_NTD.shape[1]
    return sums.result(num_tokens) | {"distance": _angles(torch.stack(last_LND))}


def embed(parent: Checkpoint, ids_NT: Indices) -> "torch.Tensor":
    """The stream before the first layer, float32, (N, T, D); only the rows asked for are read."""
    import torch

    embedding = load_family(parent.shape.family).embedding
    stream_NTD = parent.read(embedding)[torch.from_numpy(ids_NT)]
    parent.check_finite(embedding, stream_NTD)
    return stream_NTD.to(torch.float32)


def normalised(stream: "torch.Tensor") -> "torch.Tensor":
    """Each token's stream over its own root mean square, float64, (tokens, D)."""
    import torch

    stream_ND = stream.reshape(-1, stream.shape[-1]).to(torch.float64)
    mean_N1 = stream_ND.square().mean(1, keepdim=True)
    return stream_ND / mean_N1.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


class _Sums:
    """Running sums over tokens or blocks, float64."""

    def __init__(self, parent: Checkpoint) -> None:
        import torch

        shape = parent.shape
        self._parent = parent
        self._rows = watched_rows(shape.family)
        self._units = {"ffn": (shape.ffn, 1), "heads": (shape.heads, shape.head_dim)}
        num_norms = len(norm_names(shape))
        self._lost = {
            kind: torch.zeros(shape.layers, units, dtype=torch.float64)
            for kind, (units, _) in self._units.items()
        }
        self._size = {kind: torch.zeros_like(lost_LU) for kind, lost_LU in self._lost.items()}
        self._norm_size_MD = torch.zeros(num_norms, shape.hidden, dtype=torch.float64)
        self._moment_DD = torch.zeros(shape.hidden, shape.hidden, dtype=torch.float64)
        self._influence_L = torch.zeros(shape.layers, dtype=torch.float64)
        self._layer = 0
        self._gram: dict[str, torch.Tensor] = {}

    def start(self, layer: int) -> None:
        """What follows belongs to `layer`; its writers' weights say how much a unit's output is."""
        import torch

        self._layer = layer
        for row in self._rows:
            if row.writes_residual:
                kind = row.axes[1]
                units, entries = self._units[kind]
                weight_DW = self._parent.read(row.name.format(layer=layer)).to(torch.float64)
                weight_UDE = weight_DW.reshape(-1, units, entries).transpose(0, 1)
                self._gram[kind] = weight_UDE.transpose(1, 2) @ weight_UDE

    def add(self, before_BTD: "torch.Tensor", after_BTD: "torch.Tensor", seen: Seen) -> None:
        """One batch of blocks through the current layer."""
        import torch

        cosine_BT = torch.cosine_similarity(before_BTD.double(), after_BTD.double(), dim=-1)
        self._influence_L[self._layer] += (1 - cosine_BT).sum()
        norms = [row for row in self._rows if not row.writes_residual]
        for place, row in enumerate(norms):
            number = self._layer * len(norms) + place
            into_BTD, out_BTD = seen[row.name]
            self.add_norm(into_BTD)
            self._norm_size_MD[number] += _squared_mean_sizes(out_BTD)
        for row in self._rows:
            if row.writes_residual:
                self._add_units(row.axes[1], seen[row.name][0])

    def add_norm(self, stream_BTD: "torch.Tensor") -> None:
        """One batch of the stream in front of some norm."""
        unit_ND = normalised(stream_BTD)
        self._moment_DD += unit_ND.T @ unit_ND

    def _add_units(self, kind: str, into_BTW: "torch.Tensor") -> None:
        import torch

        units, entries = self._units[kind]
        into_UNE = into_BTW.reshape(-1, units, entries).transpose(0, 1).to(torch.float64)
        second_UEE = into_UNE.transpose(1, 2) @ into_UNE
        self._lost[kind][self._layer] += (second_UEE * self._gram[kind]).sum((1, 2))
        sizes_W = _squared_mean_sizes(into_BTW)
        self._size[kind][self._layer] += sizes_W.reshape(units, entries).sum(1)

    def result(self, num_tokens: int) -> dict[str, Array]:
        """The statistics, by name."""
        num_norms = len(self._norm_size_MD)
        found = {f"{kind}.energy": (lost / num_tokens).sqrt() for kind, lost in self._lost.items()}
        found |= {f"{kind}.activation": size.sqrt() for kind, size in self._size.items()}
        found["hidden.activation"] = self._norm_size_MD.sqrt().sum(0)
        found["moment"] = self._moment_DD / (num_tokens * num_norms)
        found["hidden.energy"] = found["moment"].diagonal().sqrt()
        found["influence"] = self._influence_L / num_tokens
        return {name: np.array(tensor.numpy()) for name, tensor in found.items()}


def _squared_mean_sizes(values_BTW: "torch.Tensor") -> "torch.Tensor":
    """Minitron: mean size over a block's tokens, squared, summed over blocks; shape (W,)."""
    return values_BTW.double().abs().mean(1).square().sum(0)


def _angles(last_LND: "torch.Tensor") -> Array:
    """Mean over blocks of arccos(cosine) / pi between every two of L streams."""
    import torch

    unit_LND = torch.nn.functional.normalize(last_LND.double(), dim=-1)
    cosine_NLL = torch.einsum("lnd,mnd->nlm", unit_LND, unit_LND).clamp(-1, 1)
    angles: Array = (cosine_NLL.arccos() / torch.pi).mean(0).numpy()
    return angles
