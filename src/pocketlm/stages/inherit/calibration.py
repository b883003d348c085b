"""What a parent does on blocks of the corpus: measured once, used for every target size.

A statistic is a named array over the whole parent; inherit selects its layers and units later, so
another child of the same parent and vocabulary needs no new measurement. Sums are float64 over
tokens or blocks, so a batch's size changes nothing but rounding in the forward pass.
Shapes: N blocks of T tokens, M norms, V kept tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import CorpusError
from pocketlm.model.child import Child
from pocketlm.model.family import load_family
from pocketlm.model.shape import Shape

Array = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The blocks, in the child's token ids, and what was measured on them."""

    ids_NT1: Indices
    """N blocks of T inputs and one more id, so that targets are the inputs moved by one."""
    statistics: Mapping[str, Array]
    """Name -> float64 array over the whole parent; `forward.py`, `gradients.py` and `masks.py` say
    which. Those of masks are for one shape of child."""
    trained: Child | None = None
    """The parent over the kept tokens, where its weights were trained under masks."""

    @property
    def halves(self) -> tuple[Indices, Indices]:
        """Blocks to fit on and blocks to choose on, every second one."""
        return self.ids_NT1[::2], self.ids_NT1[1::2]


def calibration_ids(blocks: Blocks, num_blocks: int) -> Indices:
    """`num_blocks` blocks spread evenly over the text, all of them where there are fewer.

    Shape (N, T + 1). Raises `CorpusError` where there are not two: one to fit on, one to choose on.
    """
    num = min(num_blocks, len(blocks))
    if num < 2:
        raise CorpusError(
            f"[inherit] calibration_blocks: the training text has {len(blocks)} blocks of "
            f"{blocks.seq_len} tokens; two at least are needed"
        )
    middles_N = (2 * np.arange(num, dtype=np.int64) + 1) * len(blocks) // (2 * num)
    return blocks.batch(middles_N)


def norm_names(shape: Shape) -> tuple[str, ...]:
    """The gains of all norms over the stream, in the order the stream meets them."""
    family = load_family(shape.family)
    per_layer = [
        row.name
        for row in family.tensors
        if row.per_layer
        and row.part == "norms"
        and row.axes == ("hidden",)
        and row.name.endswith(".weight")
    ]
    inside = [name.format(layer=layer) for layer in range(shape.layers) for name in per_layer]
    return (*inside, family.final_norm)
