"""A tiny network with its tokenizer, and texts that are awkward in the usual ways."""

from pathlib import Path

import pytest

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child


@pytest.fixture(scope="session")
def network(tiny_parent: Path):
    return load_child(tiny_parent).network()


@pytest.fixture(scope="session")
def tokenizer(tiny_parent: Path) -> Tokenizer:
    return load_tokenizer(tiny_parent)


@pytest.fixture(scope="session")
def texts(root: Path) -> list[str]:
    """Long, short, empty, one character, and beyond ASCII."""
    licence = (root / "LICENSE").read_text() or "the licence of the work " * 99
    return [licence[:700], "You", "", "x", "naïve 中文", licence[100:300]]
