"""Bits per byte as the child stands, at the shares of all steps that the recipe names."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pocketlm.recipe import TrainTable
from pocketlm.stages.train.distributed import Team
from pocketlm.stages.train.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.stages.train.step import Step

BitsPerByte = Callable[["PreTrainedModel"], float]


class Checks:
    """What is looked at, and when; the rows are the journal's."""

    def __init__(
        self, table: TrainTable, num_steps: int, bits_per_byte: BitsPerByte | None
    ) -> None:
        self._share_at = {round(share * num_steps): share for share in table.check_at}
        self._bits_per_byte = bits_per_byte

    def look(self, compute: "Step", team: Team, journal: Journal, place: tuple[int, int]) -> bool:
        """Look if it is time and nobody has; whether this is the best child so far. `place`: steps
        done and tokens read."""
        step, tokens = place
        seen = {row["step"] for row in journal.checks}
        if self._bits_per_byte is None or step not in self._share_at.keys() - seen:
            return False
        bits = 0.0
        if team.rank == 0:
            with compute.scoring() as network:
                bits = self._bits_per_byte(network)
        share, bits = self._share_at[step], team.of_first(bits)
        journal.check({"share": share, "step": step, "tokens": tokens, "bits_per_byte": bits})
        return journal.best_step == step
