"""Measure on blocks of the corpus what the methods of a recipe need to know of the parent."""

from collections.abc import Callable

from pocketlm.corpus.blocks import Blocks
from pocketlm.model.checkpoint import Checkpoint
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import InheritTable
from pocketlm.stages.inherit.calibration import Array, Calibration, Indices, calibration_ids
from pocketlm.stages.inherit.evidence import groups_for
from pocketlm.stages.inherit.forward import forward_statistics
from pocketlm.stages.inherit.gradients import fisher_statistics, taylor_statistics

# A group of statistics -> what measures it, all blocks in one go.
GROUPS: dict[str, Callable[..., dict[str, Array]]] = {
    "forward": forward_statistics,
    "taylor": taylor_statistics,
    "fisher": fisher_statistics,
}


def measure(
    parent: Checkpoint,
    kept_V: Indices,
    blocks: Blocks,
    table: InheritTable,
    *,
    progress: Progress = SILENT,
) -> Calibration:
    """The blocks, and every statistic that the methods of `table` read.

    `kept_V`: parent token id by child token id; `blocks` hold child ids. Raises `CorpusError`.
    """
    ids_NT1 = calibration_ids(blocks, table.calibration_blocks)
    statistics: dict[str, Array] = {}
    for group in groups_for(table):
        statistics |= GROUPS[group](parent, kept_V, ids_NT1, progress=progress)
    return Calibration(ids_NT1=ids_NT1, statistics=statistics)
