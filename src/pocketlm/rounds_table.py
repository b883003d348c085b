"""The keys of stage 4 that say what each round reads and what is looked at meanwhile."""

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.tables import Table


class RoundsTable(Table):
    """Rounds, and the draw between them (paper, multiple-round training)."""

    rounds: int = Field(default=2, ge=0)
    """Passes of training; 0 leaves the child as inherited."""
    keep_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the blocks that each later round reads again (paper: 0.5)."""
    resample: str = "softmax-loss"
    """How later rounds choose their blocks: a name of RESAMPLERS."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the losses before exp; 1 is the paper's, smaller makes the choice bite."""
    unit: Literal["block", "batch"] = "block"
    """What is drawn: single blocks, or whole batches of the first round by their mean loss (paper).
    """
    losses: Literal["frozen", "recorded"] = "frozen"
    """Losses to choose by: a pass of the child as it stands (paper; a third of a pass of training),
    or those of the steps themselves, less the trend of text held back (free but for the trend)."""
    round_schedule: str = "continue"
    """The rate over rounds: a name of ROUND_SCHEDULES."""
    probe_parts: int = Field(default=0, ge=0, le=64)
    """Evenly spaced parts of the first round whose loss is taken again and again, for the curve of
    forgetting (paper: 8). 0: none."""
    probe_blocks: int = Field(default=16, ge=1)
    """Blocks of such a part."""
    probe_times: int = Field(default=32, ge=1)
    """How often, over all rounds; beside that, early steps and the steps of the parts."""

    @model_validator(mode="after")
    def _forgetting_is_a_difference(self) -> "RoundsTable":
        if self.resample == "forgetting" and self.losses == "recorded":
            raise ValueError(
                'resample = "forgetting" is the frozen loss less the recorded one; with losses = '
                '"recorded" nothing is left; take frozen'
            )
        return self
