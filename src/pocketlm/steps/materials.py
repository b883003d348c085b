"""What a step may read, and how it writes small tables."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.artifact import Artifact, Score
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.inputs import Inputs
from pocketlm.model.shape import Shape
from pocketlm.progress import Progress
from pocketlm.recipe import Recipe

Scores = dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a step may read: the recipe, the outside, the artifacts made before it."""

    recipe: Recipe
    inputs: Inputs
    made: Mapping[str, Artifact]
    progress: Progress

    def rng(self, *branch: str) -> np.random.Generator:
        """The generator of one named branch of the recipe's seed."""
        return np.random.default_rng([self.recipe.seed, *(zlib.crc32(b.encode()) for b in branch)])

    def tokenizer(self) -> Tokenizer:
        """The child's tokenizer."""
        return load_tokenizer(self.made["compact"].path("tokenizer"))

    def shape(self) -> Shape:
        """The child's shape."""
        return Shape(**read_json(self.made["design"].path("shape.json")))


def read_json(path: Path) -> Any:
    """The parsed file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """One value, readable."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
