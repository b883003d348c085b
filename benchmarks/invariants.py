"""Every invariant of a compacted vocabulary, on every tokenizer there is and many random texts.

The tokenizers are those of the folder POCKETLM_SHARED_DATA, by default `shared/data` beside the
project; where there is none, one trained on the standard library. 100,000 random texts each;
`--quick` takes 1,000. Every number but `load` and `seconds` has to be as `docs/results` shows it.
"""

import os
from pathlib import Path

import numpy as np

from _form import Numbers, main
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact import compact, count
from pocketlm.stages.compact.fuzz import fuzz_texts
from pocketlm.stages.compact.verify import verify

DATA = Path(os.environ.get("POCKETLM_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
TEXTS = ("text/zh/csl_abstracts.jsonl.gz", "text/en/c4_sample.jsonl.gz")
BATCH = 10_000


def measure(quick: bool) -> Numbers:
    """Half of each vocabulary by `usage`; failures of each check over all random texts."""
    total = 1_000 if quick else 100_000
    numbers: Numbers = {}
    for name, tokenizer in _tokenizers().items():
        files = [str(DATA / text) for text in TEXTS] if DATA.is_dir() else ["stdlib"]
        corpus = load_corpus(files, max_bytes=2_000_000)
        counted = count(tokenizer, corpus)
        size = tokenizer.num_tokens // 2
        try:
            made = compact(tokenizer, corpus, vocab_size=size, counted=counted)
        except RecipeError:  # so few may go that half is out of reach: no alphabet can
            size = tokenizer.num_tokens * 9 // 10
            made = compact(tokenizer, corpus, vocab_size=size, counted=counted)
        failed: dict[str, int] = {}
        rng = np.random.default_rng(0)
        for start in range(0, total, BATCH):
            texts = list(fuzz_texts(tokenizer, rng, min(BATCH, total - start)))
            for check in verify(tokenizer, made.tokenizer, made.kept_V, texts):
                failed[check.name] = failed.get(check.name, 0) + (not check.passed)
                if not check.passed:
                    print(f"{name}: {check.name}: {check.note}")
        numbers |= {f"{name} {check}": value for check, value in failed.items()}
        numbers[f"{name} kept"] = size
        numbers[f"{name} dead slots"] = made.dead_slots
        numbers[f"{name} inflation %"] = 100 * made.inflation
    return numbers


def _tokenizers() -> dict[str, Tokenizer]:
    if not DATA.is_dir():
        corpus = load_corpus(["stdlib"], max_bytes=1_000_000)
        return {"stdlib": train_tokenizer(corpus.texts("train"), vocab_size=4_096)}
    kinds = (".json", ".model", ".tiktoken", ".txt")
    found = {}
    for path in sorted((DATA / "tokenizers").rglob("*")):
        if path.suffix in kinds and path.name not in ("vocab.json", "merges.txt"):
            found[f"{path.parent.name}/{path.name}"] = load_tokenizer(path)
    found["tinystories-656k"] = load_tokenizer(DATA / "models" / "tinystories-656k")
    return found


if __name__ == "__main__":
    main(measure)
