"""What `proxy` trains: a shape for a few steps on the child's own text, scored in bits per byte."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.inputs import max_positions
from pocketlm.model.shape import Shape
from pocketlm.steps.choosing import BitsPerByte, choosing_bits
from pocketlm.steps.materials import Materials


def proxy_training(run: Materials) -> Callable[[Shape, float, int], float]:
    """(shape, share of `proxy_tokens`, seed) -> bits per byte of text held back for choosing.

    Random weights, one round with the recipe's own [train] settings, the same text for every shape.
    """
    recipe, table = run.recipe, run.recipe.train

    @cache
    def text() -> tuple["np.ndarray[Any, np.dtype[np.int64]]", BitsPerByte]:
        return _tokens(run, run.tokenizer()), choosing_bits(run)

    def bits_per_byte(shape: Shape, share: float, seed: int) -> float:
        import torch

        from pocketlm.model.start import base_config, constant
        from pocketlm.stages.train import train

        tokens, score = text()
        part = Blocks(tokens[: int(share * len(tokens))], table.seq_len)
        config = base_config(shape, max_positions=max_positions(recipe), bos_id=None, eos_id=None)
        child = constant(config, shape, torch.Generator().manual_seed(seed))
        settings = table.model_dump() | {"rounds": 1, "sinks": ()}
        trained = train(child, part, rng=np.random.default_rng([recipe.seed, seed]), **settings)
        return score(trained.child.network())

    return bits_per_byte


def _tokens(run: Materials, tokenizer: Tokenizer) -> "np.ndarray[Any, np.dtype[np.int64]]":
    wanted = run.recipe.design.proxy_tokens
    ids: list[int] = []
    for text in run.inputs.corpus.texts("train"):
        new = tokenizer.encode(text)
        ids += new if tokenizer.eos_id is None else [*new, tokenizer.eos_id]
        if len(ids) > wanted:
            break
    return np.array(ids[: wanted + 1])
