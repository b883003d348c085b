"""One thing `pocketlm doctor` looked at, and what it says about it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "missing", "advice"]
    """`missing`: something will fail; `advice`: it works, and would be better with this."""
    text: str
    """What was found and, unless it is ok, the exact line that mends it."""
