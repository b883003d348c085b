"""What the tests of training train."""

from pathlib import Path

import pytest

from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child


@pytest.fixture(scope="session")
def child(tiny_parent: Path) -> Child:
    """The tiny parent as a child: training copies its weights and leaves it as it is."""
    return load_child(tiny_parent)
