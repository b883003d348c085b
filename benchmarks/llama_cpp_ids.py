"""A compacted vocabulary inside llama.cpp: the same ids for 10,000 lines, tokenizer by tokenizer.

Each real tokenizer is cut to a quarter, put into a GGUF file of a tiny random child, and asked line
by line. Needs the gguf extra and the folder POCKETLM_SHARED_DATA, by default `shared/data` beside
the project. `--quick` asks 1,000 lines of one tokenizer.
"""

import os
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from _form import Numbers, main
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config
from pocketlm.stages.compact import compact
from pocketlm.stages.compact.fuzz import fuzz_texts
from pocketlm.stages.export import export

DATA = Path(os.environ.get("POCKETLM_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
TOKENIZERS = ("gpt2/tokenizer.json", "internlm/tokenizer_internlm.model", "llama2/tokenizer.model",
              "llama3/tokenizer.model", "qwen/qwen.tiktoken")  # fmt: skip
TEXTS = ("text/zh/csl_abstracts.jsonl.gz", "text/zh/iflytek_app_descriptions.jsonl.gz",
         "text/en/c4_sample.jsonl.gz", "text/en/stackexchange_sample.jsonl.gz")  # fmt: skip


def measure(quick: bool) -> Numbers:
    """Lines asked, lines alike, lines that llama.cpp is excused from (it has no normaliser)."""
    corpus = load_corpus([str(DATA / text) for text in TEXTS], max_bytes=4_000_000)
    count = 1_000 if quick else 10_000
    numbers: Numbers = {}
    for name in TOKENIZERS[1:2] if quick else TOKENIZERS:
        parent = load_tokenizer(DATA / "tokenizers" / name)
        made = compact(parent, corpus, vocab_size=parent.num_tokens // 4)
        tokenizer = made.tokenizer
        lines = [line for text in corpus.texts("train") for line in text.splitlines() if line]
        real = list(islice(lines, count * 9 // 10))
        odd = fuzz_texts(tokenizer, np.random.default_rng(0), count - len(real))
        texts = [*real, *(text for text in odd if text)]
        shape = Shape(family="llama", vocab_size=tokenizer.num_tokens, layers=1, hidden=32, heads=2,
                      kv_heads=2, head_dim=16, ffn=64, tied=True)  # fmt: skip
        config = base_config(shape, max_positions=64, bos_id=tokenizer.bos_id, eos_id=None)
        child = STARTS["constant"].function(config, shape, torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory() as folder:
            exported = export(child, tokenizer, Path(folder), formats=("gguf-f16",),
                              check_texts=texts, lineage={})  # fmt: skip
        numbers[f"{name} tokens"] = tokenizer.num_tokens
        numbers[f"{name} lines"] = len(texts)
        numbers[f"{name} alike"] = exported.scores["gguf-f16.tokens_equal"].value
    return numbers


if __name__ == "__main__":
    main(measure)
