"""What the models write: one prompt, continued greedily by each through its own tokenizer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketlm.model.timing import greedy_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a text, and how many tokens each model may add."""

    text: str
    new_tokens: int


def continue_text(network: "PreTrainedModel", tokenizer: "Tokenizer", prompt: Prompt) -> str:
    """The likeliest continuation, without the prompt; stops at the end token.

    Prompt and continuation are decoded together, because a token on its own may lose its blank.
    """
    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    prompt_T = tokenizer.encode(prompt.text)
    if not prefix + prompt_T:  # nothing to condition on: no prompt, and no token that opens a text
        return ""
    stop = tokenizer.eos_id
    new = greedy_tokens(network, prefix + prompt_T, new_tokens=prompt.new_tokens, stop=stop)
    return tokenizer.decode(prompt_T + new)[len(tokenizer.decode(prompt_T)) :]
