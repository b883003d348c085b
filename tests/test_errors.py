"""The tree of errors and the words of its hints."""

import pytest

from pocketlm import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RecipeError, 2),
        (errors.CorpusError, 2),
        (errors.ParentError, 2),
        (errors.BudgetError, 2),
        (errors.OutputError, 2),
        (errors.StageError, 1),
        (errors.DamagedArtifact, 1),
        (errors.Interrupted, 75),
    ],
)
def test_exit_codes(error: type[errors.PocketLMError], code: int) -> None:
    assert error.exit_code == code
    assert issubclass(error, errors.PocketLMError)
    assert issubclass(error, errors.UserError) == (code == 2)


def test_the_nearest_name_comes_first_then_all() -> None:
    hint = errors.did_you_mean("usege", ["frequency", "usage"])
    assert hint == "did you mean 'usage'? it has frequency, usage"


def test_nothing_near_names_them_all() -> None:
    assert errors.did_you_mean("zzz", {"a": 1, "b": 2}) == "it has a, b"
