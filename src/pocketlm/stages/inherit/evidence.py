"""What a method may look at to decide what stays: the parent, and what was measured on it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit.calibration import Array, Calibration, Indices, calibration_ids
from pocketlm.stages.inherit.forward import forward_statistics

_BY_FORWARD = {
    "neurons": ("activation", "energy"),
}

# A group of statistics -> what measures it, all blocks in one go.
GROUPS: dict[str, Callable[..., dict[str, Array]]] = {
    "forward": forward_statistics,
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The parent, the vocabulary that stays, the blocks if any, and the generator of draws."""

    parent: Checkpoint
    kept_V: Indices
    rng: np.random.Generator
    calibration: Calibration | None = None

    def statistic(self, name: str) -> Array:
        """One measured array; raises `RecipeError` where it was not measured."""
        found = self.measured.statistics
        if name not in found:
            has = ", ".join(sorted(found)) or "none"
            raise RecipeError(f"[inherit] calibration: {name} was not measured; it has {has}")
        return found[name]

    @property
    def measured(self) -> Calibration:
        """The blocks and statistics; raises `RecipeError` without them."""
        if self.calibration is None:
            raise RecipeError(
                "[inherit] this method looks at text; give inherit(..., calibration=blocks)"
            )
        return self.calibration


def groups_for(table: InheritTable) -> tuple[str, ...]:
    """The groups of statistics that the methods of `table` read; empty for data-free ones."""
    groups = ["forward" for key, names in _BY_FORWARD.items() if getattr(table, key) in names]
    return tuple(dict.fromkeys(groups))


def needs_blocks(table: InheritTable) -> bool:
    """Whether any method of `table` looks at text."""
    return bool(groups_for(table))


def measure(
    parent: Checkpoint,
    kept_V: Indices,
    blocks: Blocks,
    table: InheritTable,
    *,
    progress: Progress = SILENT,
) -> Calibration:
    """What the methods of `table` need to know of `parent` on `blocks`.

    `kept_V`: parent token id by child token id; `blocks` hold child ids. Raises `CorpusError`.
    """
    ids_NT1 = calibration_ids(blocks, table.calibration_blocks)
    statistics: dict[str, Array] = {}
    for group in groups_for(table):
        statistics |= GROUPS[group](parent, kept_V, ids_NT1, progress=progress)
    return Calibration(ids_NT1=ids_NT1, statistics=statistics)
