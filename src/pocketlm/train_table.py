"""The table of stage 4 in a recipe: how the child learns."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pocketlm.distil_table import DistilTable
from pocketlm.rounds_table import RoundsTable


class TrainTable(RoundsTable, DistilTable):
    """Stage 4: multiple-round training (paper, section on model optimization)."""

    seq_len: int = Field(default=256, ge=8)
    """Tokens of a block."""
    document_mask: bool = False
    """Documents that share a block do not see each other, and places count from each one's start
    (SmolLM3). Default: a block is read as one text."""
    batch_tokens: int = Field(default=4096, ge=8)
    """Tokens of a step; at least one block."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate. Default: the step law at this N and D, at most 3e-3 (docs/4-train.md)."""
    reference_rate: float | None = Field(default=None, gt=0)
    """Instead of a rate: one known to be right at `reference_batch_tokens`; the peak is it times
    (batch_tokens / reference_batch_tokens)^0.5 (paper, batch size and learning rate)."""
    reference_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a step that `reference_rate` was found at."""
    schedule: str = "linear"
    """Shape of the rate, over all rounds or over each (`round_schedule`): a name of SCHEDULES."""
    warmup_fraction: float = Field(default=0.02, ge=0, le=0.5)
    """Share of the steps that ramp up (paper's release: 0.03)."""
    optimizer: str = "adamw"
    """How gradients become updates: a name of OPTIMIZERS."""
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices only (paper: 0.1)."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm (paper's release: 1.0)."""
    check_at: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """Shares of all steps after which bits per byte of the choosing text (100 kB of it) is measured
    and kept in `checks.json`: 0 is before training, 1 after it."""
    planned_tokens: int | None = Field(default=None, ge=1)
    """Tokens of the first round that `plan` prices, in place of what the corpus holds; changes no
    number. With an explicit shape and vocabulary, `plan` then needs neither parent nor corpus."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """Seconds between checkpoints; changes no number."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the step; masters stay float32. `auto`: bfloat16 where the machine has it."""
    micro_batch_tokens: int | None = Field(default=None, ge=8)
    """Tokens whose gradients are made at once and added up to a step's; at least one block. Any
    split is the same step but for rounding. Default: the whole step, less where memory asks."""
    cross_entropy: Literal["auto", "full", "chunked"] = "auto"
    """`chunked` never holds all logits; the same numbers but for rounding. `auto`: where memory
    asks."""
    recompute: bool = False
    """Keep only each layer's input and compute the rest again in the backward pass: a third more
    work, far less memory (activation checkpointing, arXiv 1604.06174)."""
    attention: Literal["auto", "query-blocks", "sdpa", "eager"] = "auto"
    """Attention of the step. `auto`: in a long run the fastest here, tried at its start; else
    `query-blocks` on a processor and `sdpa`, torch's fused kernel, on a GPU. With `document_mask`
    `sdpa`: query blocks take no mask."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the step with torch.compile. `auto`: where the steps left save more than it costs."""
    engine: Literal["local"] = "local"
    """Who runs the steps."""

    @model_validator(mode="after")
    def _block_fits_batch(self) -> "TrainTable":
        for key in ("batch_tokens", "micro_batch_tokens"):
            if (getattr(self, key) or self.seq_len) < self.seq_len:
                raise ValueError(f"{key} is below one block of seq_len = {self.seq_len}")
        return self

    @model_validator(mode="after")
    def _attention_takes_masks(self) -> "TrainTable":
        if self.document_mask and self.attention == "query-blocks":
            raise ValueError(
                "document_mask: attention = 'query-blocks' takes no mask; choose auto, sdpa or "
                "eager"
            )
        return self

    @model_validator(mode="after")
    def _distils_on_all_logits(self) -> "TrainTable":
        if self.distils and self.cross_entropy == "chunked":
            raise ValueError(
                "cross_entropy = 'chunked' never holds the logits that distil compares; choose auto"
            )
        return self

    @model_validator(mode="after")
    def _one_rate(self) -> "TrainTable":
        if (self.reference_rate is None) != (self.reference_batch_tokens is None):
            raise ValueError("reference_rate and reference_batch_tokens: give both or neither")
        if self.learning_rate is not None and self.reference_rate is not None:
            raise ValueError("give learning_rate or reference_rate, not both")
        return self
