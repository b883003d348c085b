"""What llama.cpp picked and expected, held against a network's own logits at the same places.

Shapes: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.stages.export.architectures import FloatArray
from pocketlm.stages.export.llama_cpp import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Place = tuple[FloatArray, int, dict[int, float]]
"""The network's logits_V, the token llama.cpp picked there, its likeliest ids and how likely."""


def places(
    network: "PreTrainedModel", prompts: Sequence[Sequence[int]], answer: Answer
) -> list[Place]:
    """Every place where llama.cpp picked a token, in order; one network pass a prompt."""
    return list(_places(network, prompts, answer))


def greedy_gaps(found: Sequence[Place]) -> tuple[float, float]:
    """How far below the best logit picks lie, in standard deviations of their logits: the most that
    99 of 100 do, and the worst. Fewer than a hundred picks have but the worst."""
    gaps = [
        float((logits_V.max() - logits_V[token]) / logits_V.std()) for logits_V, token, _ in found
    ]
    if not gaps:
        return 0.0, 0.0
    return float(np.quantile(gaps, 0.99, method="higher")), max(gaps)


def num_best(found: Sequence[Place]) -> int:
    """Picks that are the network's own best after the same tokens."""
    return sum(int(logits_V.argmax()) == token for logits_V, token, _ in found)


def probability_gap(found: Sequence[Place]) -> float:
    """Largest difference between llama.cpp's and the network's probability of the likeliest ids."""
    gaps = [
        abs(theirs - float(probabilities_V[token]))
        for logits_V, _, likeliest in found
        if likeliest
        for probabilities_V in [_softmax(logits_V)]
        for token, theirs in likeliest.items()
    ]
    return max(gaps, default=0.0)


def _places(
    network: "PreTrainedModel", prompts: Sequence[Sequence[int]], answer: Answer
) -> Iterator[Place]:
    import torch

    rows = zip(prompts, answer.continuations, answer.likeliest, strict=True)
    for prompt, tokens, likeliest in rows:
        with torch.inference_mode():
            logits = network(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits
        logits_TV = logits[0, len(prompt) - 1 : -1].numpy()
        for logits_V, token, pairs in zip(logits_TV, tokens, likeliest, strict=True):
            yield logits_V, token, {int(own): float(share) for own, share in pairs}


def _softmax(logits_V: FloatArray) -> FloatArray:
    powers_V = np.exp(logits_V - logits_V.max())
    shares_V: FloatArray = powers_V / powers_V.sum()
    return shares_V
