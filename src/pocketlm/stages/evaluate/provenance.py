"""Where records come from: enough to refuse a comparison that would not mean anything."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pocketlm.errors import DamagedArtifact
from pocketlm.stages.evaluate.items import Form, Task

FORMAT = 1
"""Raised when the meaning of a stored field changes."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How one task was asked, and of which files."""

    group: str
    in_paper: bool
    metric: str
    form: Form
    shots: int
    data: Mapping[str, str]
    """Name of a data file -> sha256 of its content."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made the records of one model."""

    tasks: Mapping[str, Origin]
    tokenizer: str
    """sha256 of the tokenizer's files."""
    weights: str
    """sha256 of the weights."""
    seam: str
    """How the seam between context and choice was treated."""
    normaliser: str = "bytes"
    """Name of NORMALISERS that the results were computed with."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""
    more: Mapping[str, str] = field(default_factory=dict)
    """What else should be known: dtype, context length, limit of items."""


def origin_of(task: Task, *, form: Form, shots: int, data: Mapping[str, str]) -> Origin:
    """The origin of a task's records; `data` maps its files to their sha256."""
    return Origin(
        group=task.group,
        in_paper=task.in_paper,
        metric=task.metric,
        form=form,
        shots=shots,
        data=dict(data),
    )


def as_json(provenance: Provenance) -> str:
    """One line that `from_json` reads back."""
    return json.dumps({"format": FORMAT, **asdict(provenance)}, ensure_ascii=False, sort_keys=True)


def from_json(text: str, where: str) -> Provenance:
    """The provenance behind `as_json`; raises `DamagedArtifact` naming `where`."""
    try:
        table: dict[str, Any] = json.loads(text)
        found = table.pop("format")
        if found != FORMAT:
            raise DamagedArtifact(
                f"{where}: records of format {found}, this program reads {FORMAT}"
            )
        tasks = {name: Origin(**origin) for name, origin in table.pop("tasks").items()}
        return Provenance(tasks=tasks, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifact(f"{where}: no readable provenance ({error})") from None
