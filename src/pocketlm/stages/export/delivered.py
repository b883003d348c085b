"""What a format is written from and what it leaves: the values that every format's function has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.artifact import Score
from pocketlm.stages.export.quality import score_file
from pocketlm.stages.export.terms import PLAIN_TERMS, Terms
from pocketlm.stages.export.verify import Check

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


@dataclass(frozen=True, kw_only=True)
class Source:
    """What every format is written from."""

    child: "Child"
    tokenizer: "Tokenizer"
    check_texts: Sequence[str]
    lineage: Mapping[str, str]
    """What the child comes from, in words; `recipe` also names gguf files."""
    terms: Terms = PLAIN_TERMS

    @property
    def name(self) -> str:
        """Name of the child."""
        return self.lineage.get("recipe", "child")

    @cached_property
    def bits_per_byte(self) -> float | None:
        """The trained child's own, which every file is held against; None: not scored."""
        score = self.terms.bits_per_byte
        return None if score is None else score(self.child.network())

    def score(self, read: "Child | None", how: str) -> tuple[Check, ...]:
        """Bits per byte of a file whose numbers are `read`; None: they are the child's."""
        score, own = self.terms.bits_per_byte, self.bits_per_byte
        if score is None or own is None:
            return ()
        return score_file(own if read is None else score(read.network()), own, how)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """One format on disk, proven."""

    format: str
    path: str
    """The file, or the folder of files, below the export folder."""
    num_bytes: int
    """All of its files together."""
    verified: str
    """What was compared before it counted as delivered, in words."""
    checks: tuple[Check, ...]
    """The same in numbers, and what was measured on the way."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Every format asked for."""

    files: tuple[Delivered, ...]

    @property
    def scores(self) -> dict[str, Score]:
        """`FORMAT.bytes` and `FORMAT.CHECK`."""
        scores: dict[str, Score] = {}
        for file in self.files:
            scores[f"{file.format}.bytes"] = Score(file.num_bytes, "bytes")
            scores |= {f"{file.format}.{c.name}": Score(c.value, c.unit) for c in file.checks}
        return scores


def delivered(kind: str, target: Path, num_bytes: int, checks: tuple[Check, ...]) -> Delivered:
    """A format at `target`; what its checks say in words becomes one line."""
    words = "; ".join(check.note for check in checks if check.note)
    return Delivered(
        format=kind, path=target.name, num_bytes=num_bytes, verified=words, checks=checks
    )
