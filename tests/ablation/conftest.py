"""A base recipe, studies on it, and a pipeline that only pretends."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pocketlm.artifact import Score
from pocketlm.errors import RecipeError
from pocketlm.recipe import Recipe

BASE = """
name = "base"
parent = "parent"
corpus = { files = ["stdlib"] }
[train]
rounds = 2
"""

STUDY = """
name = "rounds"
question = "Does a second round earn its tokens?"
base = "base.toml"
seeds = [0, 1, 2]
[arms.one-round]
train.rounds = 1
[arms.untrained]
"train.rounds" = 0
"""


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Write base.toml and study.toml, `replace` old -> new in the study; the study's path."""

    def write(replace: Mapping[str, str] | None = None, base: str = BASE) -> Path:
        text = STUDY
        for old, new in (replace or {}).items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "base.toml").write_text(base)
        (tmp_path / "study.toml").write_text(text)
        return tmp_path / "study.toml"

    return write


@dataclasses.dataclass
class FakePipeline:
    """Scores from `effect` (rounds -> bits per byte) and the seed; `made` lists what it made."""

    effect: Mapping[int, float]
    made: list[str] = dataclasses.field(default_factory=list)
    fails: Callable[[Recipe], Exception | None] = lambda recipe: None
    corpus: str = "text"
    refused_rounds: int | None = None
    documents: bool = False

    def plan(self, recipe: Recipe, *, out: Path) -> tuple[Any, ...]:
        """Two steps: `compact` shared by all, `train` of this recipe."""
        if recipe.train.rounds == self.refused_rounds:
            raise RecipeError("[train] rounds: refused by the plan")
        own = f"{self.corpus} {recipe.seed} {recipe.train.rounds}"
        shared = SimpleNamespace(run=recipe.name, stage="compact", key=self.corpus, reused=False)
        train = SimpleNamespace(
            run=recipe.name,
            stage="train",
            key=hashlib.sha256(own.encode()).hexdigest(),
            reused=False,
        )
        return (shared, train)

    def cost(self, recipe: Recipe, *, out: Path) -> Any:
        """Ten seconds for `compact`, five for each training."""
        seconds = (10.0, 5.0)
        steps = zip(self.plan(recipe, out=out), seconds, strict=True)
        return SimpleNamespace(steps=[SimpleNamespace(step=s, seconds=t) for s, t in steps])

    def make(self, recipe: Recipe, *, out: Path, progress: Any) -> Any:
        """A run whose numbers are noise about the effect, shared by the arms of a seed."""
        self.made.append(recipe.name)
        if failure := self.fails(recipe):
            raise failure
        shared = np.random.default_rng(recipe.seed).normal(0, 0.1)
        own = np.random.default_rng([recipe.seed, recipe.train.rounds]).normal(0, 0.001)
        value = self.effect[recipe.train.rounds] + shared + own
        scores = {
            "child.bits_per_byte": Score(value, "bits/byte"),
            "child.params": Score(1000.0 + recipe.train.rounds, "parameters"),
        }
        folder = Path(out) / "runs" / recipe.name
        if self.documents:
            _write_documents(folder / "5-evaluate", value)
        return SimpleNamespace(name=recipe.name, folder=folder, scores=scores)


def _write_documents(folder: Path, bits_per_byte: float) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(5)
    num_bytes = rng.integers(50, 500, 40)
    bits = bits_per_byte * num_bytes * rng.normal(1, 0.05, 40)
    table = {
        "source": ["stories"] * 40,
        "text_sha256": [hashlib.sha256(bytes([n])).hexdigest() for n in range(40)],
        "bytes": num_bytes,
        "child_bits": bits,
        "parent_bits": bits,
    }
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(table), folder / "documents.parquet")


@pytest.fixture
def pipeline() -> FakePipeline:
    """One round costs 0.05 bits per byte, no training nothing at all."""
    return FakePipeline(effect={2: 1.2, 1: 1.25, 0: 1.2, 3: 1.1})
