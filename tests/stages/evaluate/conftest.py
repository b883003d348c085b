"""A tiny network with its tokenizer, and texts that are awkward in the usual ways."""

import json
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


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small benchmarks made up here, in the layouts that are read."""
    folder = tmp_path_factory.mktemp("benchmarks")
    boolq = [
        {"question": f"is stone {n} heavy", "passage": f"Stone {n} weighs {n} pounds.", "idx": n,
         "label": "true" if n % 3 else "false"}
        for n in range(12)
    ]  # fmt: skip
    piqa = [
        {"goal": f"Mix {n} eggs", "sol1": f"Stir them {n} times.", "sol2": "Leave them.",
         "label": n % 2}
        for n in range(9)
    ]  # fmt: skip
    xsum = [{"document": f"It rained in town {n}.", "summary": f"Rain {n}."} for n in range(2)]
    for name, rows in (("boolq.val", boolq), ("piqa", piqa), ("xsum", xsum)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder
