"""Every pre-tokenizer that is written by name cuts text in llama.cpp as it does here."""

from dataclasses import replace

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.model.child import Child
from pocketlm.stages.export.gguf import write_gguf
from pocketlm.stages.export.llama_cpp import Job, ask_llama_cpp
from pocketlm.stages.export.vocabulary import GPT2_SPLIT, PRE_TOKENIZERS

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

TEXTS = [
    "I'LL say it's 1234567 or 12.5%, won't I?\n\n\nThey'RE  gone   \t x\r\n y",
    "naïve 中文字符，123。 e\u0301 Ⅷ ½ 😀👩‍👩‍👧 العربية हिन्दी \u00a0 \u3000 end ",
    "def f(x_1):\n    return x_1**2  # ''' 's 'S\n\t\tif (a!=b):;\n",
    "   leading, trailing   ",
    "\n \n  \n",
    "a" * 40 + " " * 20 + "1" * 20,
]


def _trained_across_words(split: tuple[str, ...], ignore_merges: bool) -> Tokenizer:
    """Merges learnt without any split, so that each border the split draws changes ids."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer, backend.decoder = whole, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator([text[i:] for text in TEXTS for i in range(12)], trainer)
    steps = [pre_tokenizers.Split(tokenizers.Regex(own), "isolated") for own in split]
    if split[-1] == GPT2_SPLIT:
        steps[-1:] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps.append(whole)
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return Tokenizer(backend=backend)


def _grown(child: Child, vocab_size: int) -> Child:
    name = "model.embed_tokens.weight"
    rows = child.tensors[name].repeat(2, 1)[:vocab_size].contiguous()
    config = {**child.config, "vocab_size": vocab_size}
    return replace(child, config=config, tensors={**child.tensors, name: rows})


@pytest.mark.parametrize("key", PRE_TOKENIZERS, ids=PRE_TOKENIZERS.get)
def test_llama_cpp_draws_the_same_borders(child, tmp_path, key) -> None:
    tokenizer = _trained_across_words(*key)
    path = tmp_path / "x.gguf"
    grown = _grown(child, tokenizer.num_tokens)
    vocabulary = write_gguf(grown, tokenizer, path, weights="F16", lineage={})
    assert vocabulary.pre == PRE_TOKENIZERS[key]
    answer = ask_llama_cpp(Job(model=str(path), prompts=[[1]], new_tokens=1, texts=TEXTS))
    assert answer.ids == tokenizer.encode_batch(TEXTS)


def test_the_splits_differ_on_these_texts() -> None:
    ids = [_trained_across_words(split, False).encode_batch(TEXTS) for split, _ in PRE_TOKENIZERS]
    assert len({str(own) for own in ids}) == len({split for split, _ in PRE_TOKENIZERS})
