"""Let a finished run's child continue a prompt."""

from typing import TYPE_CHECKING

from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import RecipeError
from pocketlm.model.checkpoint import load_child
from pocketlm.runs import Run

if TYPE_CHECKING:
    import torch


def continue_run(run: Run, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """Text the child adds to `prompt`: at most `tokens` tokens, greedy at temperature 0.

    Draws come from a generator of their own. Raises `RecipeError` if the run has no child yet.
    """
    if "train" not in run.artifacts:
        raise RecipeError(f"run {run.name!r} has no trained child yet; make it first")
    import torch

    tokenizer = load_tokenizer(run.artifacts["compact"].path("tokenizer"))
    network = load_child(run.artifacts["train"].folder).network()
    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    prompt_T = tokenizer.encode(prompt)
    if not prefix + prompt_T:
        raise RecipeError("this child has no token that opens a text; give a prompt")
    ids = torch.tensor([prefix + prompt_T])
    rng = torch.Generator().manual_seed(seed)
    limit = int(network.config.max_position_embeddings)
    cache, new_T = None, list[int]()
    with torch.inference_mode():
        while len(new_T) < tokens and len(prefix + prompt_T) + len(new_T) < limit:
            step = network(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, logits_V = step.past_key_values, step.logits[0, -1].float()
            token = _draw(logits_V, temperature, rng)
            if token == tokenizer.eos_id:
                break
            new_T.append(token)
            ids = torch.tensor([[token]])
    # Decoded together: a token alone may lose its blank.
    return tokenizer.decode(prompt_T + new_T)[len(tokenizer.decode(prompt_T)) :]


def _draw(logits_V: "torch.Tensor", temperature: float, rng: "torch.Generator") -> int:
    import torch

    if temperature <= 0:
        return int(logits_V.argmax())
    probabilities_V = torch.softmax(logits_V / temperature, dim=-1)
    return int(torch.multinomial(probabilities_V, 1, generator=rng))
