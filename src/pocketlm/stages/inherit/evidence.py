"""What a method may look at to decide what stays: the parent, and what was measured on it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.model.child import Child
from pocketlm.model.family import load_family
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit.calibration import Array, Calibration, Indices

# Which names of which keys read which group of statistics.
_READ_BY: Mapping[str, Mapping[str, tuple[str | bool, ...]]] = {
    "forward": {
        "layers": ("block-influence", "contiguous"),
        "neurons": ("activation", "energy", "auto"),
        "hidden": ("rotate", "auto"),
    },
    "taylor": {"neurons": ("taylor",)},
    "fisher": {"neurons": ("fisher",)},
}
_RUN_ON_BLOCKS: Mapping[str, tuple[str | bool, ...]] = {
    "layers": ("greedy", "mask"),
    "neurons": ("mask",),
    "norm_energy": (True, "auto"),
    "refit": ("output", "stream", "auto"),
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The parent, the vocabulary that stays, the blocks if any, and the generator of draws."""

    parent: Checkpoint
    kept_V: Indices
    """Parent token id by child token id."""
    rng: np.random.Generator
    calibration: Calibration | None = None
    progress: Progress = SILENT

    def statistic(self, name: str) -> Array:
        """One measured array; raises `RecipeError` where it was not measured."""
        found = self.measured.statistics
        if name not in found:
            has = ", ".join(sorted(found)) or "none"
            raise RecipeError(f"[inherit] calibration: {name} was not measured; it has {has}")
        return found[name]

    @property
    def source(self) -> tuple[Checkpoint | Child, Indices]:
        """What the child is cut from, and its tokens there: the parent, as trained if it was."""
        trained = None if self.calibration is None else self.calibration.trained
        if trained is None:
            return self.parent, self.kept_V
        return trained, np.arange(self.kept_V.size)

    @property
    def measured(self) -> Calibration:
        """The blocks and statistics; raises `RecipeError` without them."""
        if self.calibration is None:
            raise RecipeError(
                "[inherit] a method that looks at text needs it: inherit(..., calibration=blocks)"
            )
        return self.calibration


def groups_for(table: InheritTable) -> tuple[str, ...]:
    """The groups of statistics that the methods of `table` read; empty for data-free ones."""
    return tuple(group for group, readers in _READ_BY.items() if _names_one(table, readers))


def needs_blocks(table: InheritTable) -> bool:
    """Whether any method of `table` looks at text."""
    return bool(groups_for(table)) or _names_one(table, _RUN_ON_BLOCKS)


def decided(table: InheritTable, family: str, *, has_text: bool) -> InheritTable:
    """`table` with a method in the place of every `auto`: the best that family and text allow.

    Best in studies/inheritance.toml (docs/3-inherit.md). Without text what needs none: `l2`.
    """
    rotates = has_text and load_family(family).rotates
    # `stream` follows the parent's stream down the layers; a list may name them in any order.
    in_order = isinstance(table.layers, str) or list(table.layers) == sorted(table.layers)
    best = {
        "neurons": "energy" if has_text else "l2",
        "hidden": "rotate" if rotates else "score",
        "norm_energy": rotates,
        "refit": "stream" if rotates and in_order else "output" if has_text else "none",
    }
    return table.model_copy(
        update={key: value for key, value in best.items() if getattr(table, key) == "auto"}
    )


def learns_masks(table: InheritTable) -> bool:
    """Whether `table` asks for masks, which are learned for one shape of child."""
    return "mask" in (table.layers, table.neurons)


def _names_one(table: InheritTable, readers: Mapping[str, tuple[str | bool, ...]]) -> bool:
    return any(getattr(table, key) in names for key, names in readers.items())
