"""What can go wrong, as a small tree.

PocketLMError            anything pocketlm raises on purpose; prints as one line
├── UserError            your input: exit code 2
│   ├── RecipeError      a key, a value or a name in a recipe or study
│   ├── CorpusError      text that cannot be read
│   ├── ParentError      a parent, checkpoint or tokenizer that cannot be used
│   ├── BudgetError      a budget that no shape, vocabulary or file fits
│   └── OutputError      a folder that cannot be written, a run name taken by another recipe
├── StageError           a stage could not finish, through no fault of the input: exit code 1
├── DamagedArtifact      a stored file that no longer matches its manifest: exit code 1
└── Interrupted          stopped by a signal after a checkpoint: exit code 75

A message says where, what was given and what is accepted.
"""

import difflib
from collections.abc import Iterable


class PocketLMError(Exception):
    """Base of every error pocketlm raises on purpose."""

    exit_code = 1


class UserError(PocketLMError):
    """The input is at fault; the message says what would be accepted."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe or study holds a wrong key, value or name."""


class CorpusError(UserError):
    """The corpus cannot be read or holds too little."""


class ParentError(UserError):
    """The parent model, a checkpoint or a tokenizer cannot be used."""


class BudgetError(UserError):
    """Nothing fits the budget."""


class OutputError(UserError):
    """The output folder cannot be written or belongs to another recipe."""


class StageError(PocketLMError):
    """A stage failed although its input was legal."""


class DamagedArtifact(PocketLMError):
    """A stored file differs from what its manifest says."""


class Interrupted(PocketLMError):
    """Stopped by a signal after a checkpoint; the same command resumes."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? it has a, b, x`: the nearest known name, then all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}it has {', '.join(names)}"
