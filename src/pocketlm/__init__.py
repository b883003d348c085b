"""pocketlm: the best tiny language model for a device, from a larger one and a corpus.

    recipe = pocketlm.load_recipe("recipes/demo.toml")
    run = pocketlm.make(recipe, out="runs")

Each stage can be called alone: objects in, one frozen value out. Names are imported on first use,
so that `import pocketlm` stays fast.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Blocks": "corpus.blocks",
    "Budget": "stages.design",
    "Recipe": "recipe",
    "compact": "stages.compact",
    "compare": "ablation.compare",
    "design": "stages.design",
    "evaluate": "stages.evaluate",
    "export": "stages.export",
    "inherit": "stages.inherit",
    "load_corpus": "corpus.documents",
    "load_device": "device",
    "load_recipe": "recipe",
    "load_study": "ablation.study",
    "load_tokenizer": "corpus.tokenizer_files",
    "make": "pipeline",
    "open_checkpoint": "model.checkpoint",
    "open_run": "runs",
    "plan": "pipeline",
    "tokenise": "corpus.shards",
    "train": "stages.train",
    "verify": "stages.compact.verify",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketlm' has no attribute {name!r}")
    return getattr(import_module(f"pocketlm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
