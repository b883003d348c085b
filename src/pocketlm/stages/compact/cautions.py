"""What a user should be told before going on with a smaller vocabulary.

Shapes: P parent ids, V kept ids.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketlm.stages.compact.derive import Vocabulary
from pocketlm.stages.compact.surfaces import script_of

IntArray = npt.NDArray[np.int64]
OVERFIT = 1.5
"""Held-out growth over the training text's that is worth a word."""
OVERFIT_FLOOR = 0.005  # below this growth the two differ by chance
SCRIPT_FLOOR = 1e-4
"""Share of the other text's tokens below which a script is a stray word."""


def overfit_warning(in_sample: float, held_out: float) -> str | None:
    """A line if held-out text grew more than 1.5 times as much as the training text.

    Both are growth in tokens per byte: 0.02 is 2 % longer.
    """
    if held_out < OVERFIT_FLOOR or held_out <= OVERFIT * in_sample:
        return None
    return (
        f"held-out text became {100 * held_out:.1f} % longer, the training text "
        f"{100 * in_sample:.1f} %: the vocabulary fits its own text; count more text, keep more "
        "tokens, or take select = 'smoothed'"
    )


def script_warning(
    vocabulary: Vocabulary, kept_V: IntArray, train_P: IntArray, other_P: IntArray
) -> list[str]:
    """A line for each script that the text behind `other_P` holds and the child has lost: none of
    its tokens stays, or the training text had none of it and some of those in use go.

    Tokens that are part of a character have no script. A script of less than one token in ten
    thousand is left out.
    """
    num_tokens, num_train = int(other_P.sum()), int(train_P.sum())
    is_kept = np.zeros(other_P.size, dtype=bool)
    is_kept[kept_V] = True
    scripts: defaultdict[str, _Script] = defaultdict(_Script)
    for i in np.flatnonzero((other_P > 0) | (train_P > 0) | is_kept).tolist():
        name = script_of(vocabulary.surfaces_P[i] or "")
        if name is not None:
            scripts[name].add(int(other_P[i]), int(train_P[i]), bool(is_kept[i]))
    fallback = "bytes" if vocabulary.family.endswith("bpe") else "bytes or as unknown"
    return [
        f"{name.title()} is {_percent(script.other, num_tokens)} of the other text's tokens and "
        f"{_percent(script.train, num_train)} of the training text's; {script.kept or 'none'} of "
        f"its tokens stay, the rest is written in {fallback}"
        for name, script in sorted(scripts.items())
        if script.lost
        and (script.train == 0 or script.kept == 0)
        and script.other >= SCRIPT_FLOOR * num_tokens
    ]


def _percent(uses: int, of: int) -> str:
    return f"{100 * uses / of:.2g} %" if uses else "none"


@dataclass
class _Script:
    """Uses of one script's tokens."""

    other: int = 0
    train: int = 0
    kept: int = 0
    """Tokens, not uses."""
    lost: bool = False
    """Whether a token that the other text uses goes."""

    def add(self, other: int, train: int, is_kept: bool) -> None:
        self.other += other
        self.train += train
        self.kept += is_kept
        self.lost |= other > 0 and not is_kept
