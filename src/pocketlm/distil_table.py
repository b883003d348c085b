"""The keys of stage 4 that say how much the child learns from its parent's predictions."""

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.tables import Table


class DistilTable(Table):
    """Distillation (Hinton et al. 2015, arXiv 1503.02531); off by default."""

    distil: float = Field(default=0.0, ge=0, le=1)
    """Weight w of the parent at the first step: the loss is (1 - w) CE + w T^2 KL(parent || child).
    """
    distil_end: float | None = Field(default=None, ge=0, le=1)
    """Weight after the last step; in between it moves in a straight line. With distil = 1 and 0
    here the parent leads early and the text late. Default: as `distil`."""
    distil_temperature: float = Field(default=1.0, gt=0)
    """T: divides the logits of both before softmax."""
    distil_tokens: int = Field(default=0, ge=0)
    """Likeliest tokens of the parent's prediction that are used; all others together are one more
    outcome. 0: every token by itself."""
    distil_from: Literal["parent", "stored"] = "parent"
    """`parent`: it runs beside the child, on the same device, at every step; `stored`: it reads
    every block once, before training, and `distil_tokens` a position stay on disk."""

    @model_validator(mode="after")
    def _distils_if_it_says_how(self) -> "DistilTable":
        if self.distil == 0 and (self.distil_end or 0) == 0:
            said = sorted(self.model_fields_set & set(DistilTable.model_fields) - {"distil"})
            said = [key for key in said if getattr(self, key) != _default(key)]
            if said:
                raise ValueError(f"{', '.join(said)}: nothing is distilled with distil = 0")
        return self

    @model_validator(mode="after")
    def _stored_is_cut(self) -> "DistilTable":
        if self.distil_from == "stored" and self.distil_tokens == 0:
            raise ValueError(
                "distil_from = 'stored' keeps the likeliest tokens only; give distil_tokens, such "
                "as 32 (4 to 6 bytes each for every token of text)"
            )
        return self

    @property
    def distils(self) -> bool:
        """Whether the parent is asked at all."""
        return max(self.distil, self.distil_end or 0) > 0

    def distil_weight(self, done: float) -> float:
        """Weight of the parent when this share of all steps is behind."""
        end = self.distil if self.distil_end is None else self.distil_end
        return self.distil + (end - self.distil) * done


def _default(key: str) -> object:
    return DistilTable.model_fields[key].default
