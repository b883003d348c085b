"""A method is a function; a choice is a table of methods, each with its source.

Stages keep one table per choice (`SELECTORS`, `RANKERS`, `NEURON_SCORES`, ...). Recipes name an
entry, studies enumerate the table, `pocketlm show methods` prints it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pocketlm.errors import RecipeError, did_you_mean

F = TypeVar("F")


@dataclass(frozen=True)
class Method(Generic[F]):
    """One entry of a choice: the function and where it comes from."""

    function: F
    paper: str
    """Paper and section the method follows, or `ours` with the run that justifies it."""

    @property
    def says(self) -> str:
        """First line of the function's documentation."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


def pick(table: Mapping[str, Method[F]], name: str, where: str, *, also: Sequence[str] = ()) -> F:
    """Return the function that `name` stands for in `table`.

    `where` is the recipe key, `also` what it may say besides, both for the message. Raises
    `RecipeError` with the nearest name.
    """
    if name not in table:
        known = did_you_mean(name, [*also, *table])
        raise RecipeError(f"{where} = {name!r}: no such method; {known}")
    return table[name].function
