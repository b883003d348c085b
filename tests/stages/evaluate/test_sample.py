"""What a model writes after a prompt."""

from dataclasses import replace

from pocketlm.model.timing import greedy_tokens
from pocketlm.stages.evaluate.sample import Prompt, continue_text


def test_the_continuation_is_the_decoded_greedy_tokens_up_to_the_end(network, tokenizer) -> None:
    prompt = tokenizer.encode("You may")
    start, end = [tokenizer.prefix_id, *prompt], tokenizer.eos_id
    free = greedy_tokens(network, start, new_tokens=30)
    ended = greedy_tokens(network, start, new_tokens=30, stop=end)
    assert end in free, "the parent is expected to end this text"
    assert free[: free.index(end)] == ended
    written = continue_text(network, tokenizer, Prompt(text="You may", new_tokens=30))
    assert "You may" + written == tokenizer.decode(prompt + ended)


def test_no_prompt_and_no_prefix_gives_nothing(network, tokenizer) -> None:
    bare = replace(tokenizer, bos_id=None, eos_id=None)
    assert continue_text(network, bare, Prompt(text="", new_tokens=5)) == ""
