"""The table of stage 2 in a recipe: a budget or a shape."""

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.tables import Table


class ShapeTable(Table):
    """An architecture in numbers, without the vocabulary (stage 1 sets that)."""

    layers: int = Field(ge=1)
    """Transformer layers."""
    hidden: int = Field(ge=8)
    """Width of the residual stream."""
    heads: int = Field(ge=1)
    """Query heads."""
    kv_heads: int = Field(ge=1)
    """Key/value heads; divides `heads`."""
    ffn: int = Field(ge=8)
    """Width inside the feed-forward layer."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of one head. Default: the parent's, else hidden / heads."""
    tied: bool | None = None
    """One matrix for embedding and head. Default: the parent's, else true."""


class DesignTable(Table):
    """Stage 2: the best shape for the budget (paper, architecture tweak)."""

    max_params: int | None = Field(default=None, ge=1)
    """Parameters at most, embeddings counted once if tied."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Memory at most while generating: weights in `weight_format` and the cache of `context`."""
    weight_format: str = "q8_0"
    """How the device keeps weights: f32, bf16, f16, q8_0, q5_0 or q4_0."""
    context: int = Field(default=1024, ge=1)
    """Tokens the cache holds, a new token looks back at, and the first token waits for."""
    min_tokens_per_s: float | None = Field(default=None, gt=0)
    """New tokens a second at least, one sequence, in `runtime` on `device`."""
    max_first_token_ms: float | None = Field(default=None, gt=0)
    """Milliseconds at most from a prompt of `context` tokens to the first new one."""
    runtime: Literal["roofline", "transformers", "llama.cpp"] = "roofline"
    """What the times hold in: the bound of the device's profile, or a program measured and fitted
    on this machine (a minute): transformers in float32, or llama.cpp in `weight_format` on one
    thread (extra `gguf`), which `measured` then times in too."""
    tied: bool | None = None
    """One matrix for embedding and head, within limits. Default: the parent's; without a parent
    both are legal and rankers take tied first, which leaves more of a budget to the layers."""
    shape: ShapeTable | None = None
    """An explicit shape instead of a budget."""
    rank: str = "deep-first"
    """How legal shapes are ordered: a name of RANKERS."""
    proxy_tokens: int = Field(default=200_000, ge=1)
    """Training tokens of a finalist of `proxy`; the others get a half or a quarter."""
    proxy_sampler: str = "depths"
    """Which eight shapes `proxy` trains: a name of PROXY_SAMPLERS. `tpe` and `random` propose
    layers, FFN ratio and head through Optuna (extra `optuna`)."""
    law: str | None = None
    """File of a fitted loss law for `scaling-law`, relative to the recipe."""

    @property
    def has_budget(self) -> bool:
        """Whether any limit is given."""
        limits = (self.max_params, self.max_bytes, self.min_tokens_per_s, self.max_first_token_ms)
        return any(limit is not None for limit in limits)

    @model_validator(mode="after")
    def _one_of_two(self) -> "DesignTable":
        if self.has_budget and self.shape is not None:
            raise ValueError("give limits (max_params, max_bytes, ...) or shape, not both")
        if self.tied is not None and not self.has_budget:
            raise ValueError("tied goes with limits; a shape has shape.tied")
        return self
