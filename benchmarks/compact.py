"""Stage 1: counting speed, select and rebuild, and what each selector costs in length.

With real tokenizers and texts: those in the folder POCKETLM_SHARED_DATA, by default `shared/data`
beside the project. Where there is none, the standard library's text and a tokenizer trained on it.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from _counting import measure as measure_counting
from _form import Numbers, main
from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.stages.compact import Counted, compact, count
from pocketlm.stages.compact.derive import read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import SELECTORS, Observed, choose

DATA = Path(os.environ.get("POCKETLM_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
# The texts behind every number of length and speed here, named once.
ENGLISH = ("c4_sample.jsonl.gz", "enwiki_articles.jsonl.gz", "stackexchange_sample.jsonl.gz",
           "english_novels.jsonl.gz")  # fmt: skip
CHINESE = ("csl_abstracts.jsonl.gz", "iflytek_app_descriptions.jsonl.gz",
           "c3_train_passages.jsonl.gz", "zhwiki_simplified_cmrc.jsonl.gz",
           "classical_to_modern.modern.jsonl.gz")  # fmt: skip
TOKENIZERS = {"gpt2": "gpt2/tokenizer.json", "internlm": "internlm/tokenizer_internlm.model",
              "qwen": "qwen/qwen.tiktoken"}  # fmt: skip
LENGTHS = {"internlm": ("zh", "en"), "gpt2": ("en",), "qwen": ("zh", "en")}
COUNTED = (("en", "gpt2"), ("en", "internlm"), ("zh", "qwen"), ("zh", "internlm"))
SELECTED = ("usage", "frequency", "last-merges", "smoothed")
SHARES = (75, 50, 25)
"""Per cent of the tokens that stay."""


def measure(quick: bool) -> Numbers:
    """Speed of counting, cost of selecting and rebuilding, growth of text at three sizes."""
    if not DATA.is_dir():
        return _measure_anywhere(quick)
    numbers = _counting_speed(
        COUNTED[::3] if quick else COUNTED, 1_000_000 if quick else 20_000_000
    )
    numbers |= _rebuilding()
    names = ("internlm",) if quick else tuple(LENGTHS)
    for name in names:
        corpus = _corpus(LENGTHS[name], max_bytes=1_000_000 if quick else 20_000_000)
        found = _growth(
            _tokenizer(name), corpus, SELECTED[:2] if quick else SELECTED, retrain=not quick
        )
        numbers |= {f"{name}_{key}": value for key, value in found.items()}
    for share in SHARES:
        numbers[f"inflation_{share}"] = numbers[f"internlm_usage_{share}"]
        numbers[f"frequency_{share}"] = numbers[f"internlm_frequency_{share}"]
    numbers["dead_slots"] = max(v for k, v in numbers.items() if k.endswith("_usage_dead"))
    return numbers


def _counting_speed(pairs: Sequence[tuple[str, str]], num_bytes: int) -> Numbers:
    numbers: Numbers = {}
    for language, name in pairs:
        texts = _texts(language, num_bytes)
        found = measure_counting(_tokenizer(name), texts)
        numbers |= {f"count_{language}_{name}_{key}": value for key, value in found.items()}
    for language in ("en", "zh"):
        ratios = [v for k, v in numbers.items() if k.startswith(f"count_{language}_") and
                  k.endswith("_ratio")]  # fmt: skip
        numbers[f"count_{language}_ratio"] = min(ratios)
    return numbers


def _rebuilding() -> Numbers:
    """Derive, rank, curve, every check of size, choose and rebuild: Qwen's 151,643 ranks to half.

    In a process of its own, whose memory counts from after the imports and the loading.
    """
    code = "from compact import rebuild_once; rebuild_once()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True
    )
    seconds, peak_mb = map(float, done.stdout.split()[-2:])
    return {"rebuild_150k_s": seconds, "rebuild_150k_peak_mb": peak_mb}


def rebuild_once() -> None:
    """Print CPU seconds, and peak memory of the process in MB."""
    tokenizer = _tokenizer("qwen")
    counts_P = np.random.default_rng(0).zipf(1.3, tokenizer.num_tokens).clip(max=10**9)
    started = time.process_time()
    vocabulary = read_vocabulary(tokenizer)
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=Keep())
    ranking = SELECTORS["usage"].function(vocabulary, Observed(train_P=counts_P, choose_P=counts_P))
    for size in np.linspace(len(mandatory), tokenizer.num_tokens, 50).astype(int):
        choose(ranking, mandatory, int(size))
    rebuild(tokenizer, choose(ranking, mandatory, tokenizer.num_tokens // 2))
    seconds = time.process_time() - started
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@cache
def _tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(DATA / "tokenizers" / TOKENIZERS[name])


def _growth(
    tokenizer: Tokenizer, corpus: Corpus, selectors: Sequence[str], *, retrain: bool
) -> Numbers:
    """Per cent more tokens per byte of held-out text; tokens that died, over all sizes."""
    numbers: Numbers = {}
    counted = count(tokenizer, corpus)
    for select in selectors:
        dead = 0
        for share in SHARES:
            size = tokenizer.num_tokens * share // 100
            made = compact(tokenizer, corpus, vocab_size=size, select=select, counted=counted)
            numbers[f"{select}_{share}"] = 100 * made.inflation
            dead += made.dead_slots
        numbers[f"{select}_dead"] = dead
    for share in SHARES if retrain else ():
        numbers[f"retrained_{share}"] = 100 * _retrained(tokenizer, corpus, counted, share)
    return numbers


def _retrained(tokenizer: Tokenizer, corpus: Corpus, counted: Counted, share: int) -> float:
    """The same against a byte-level BPE with GPT-2's split, trained on the same text."""
    size = tokenizer.num_tokens * share // 100
    trained = train_tokenizer(corpus.texts("train"), vocab_size=size)
    num_tokens = sum(map(len, trained.encode_batch(list(corpus.texts("held-out")))))
    return num_tokens / counted.held_out.num_tokens - 1


def _measure_anywhere(quick: bool) -> Numbers:
    num_tokens = 4_096 if quick else 32_768
    corpus = load_corpus(["stdlib"], max_bytes=1_000_000 if quick else None)
    tokenizer = train_tokenizer(corpus.texts("train"), vocab_size=num_tokens)
    numbers = measure_counting(tokenizer, list(corpus.texts("train")))
    return numbers | _growth(tokenizer, corpus, SELECTED, retrain=False)


def _corpus(languages: tuple[str, ...], *, max_bytes: int) -> Corpus:
    files = [str(path) for language in languages for path in _files(language)]
    return load_corpus(files, max_bytes=max_bytes)


def _files(language: str) -> Iterator[Path]:
    for name in ENGLISH if language == "en" else CHINESE:
        yield DATA / "text" / language / name


def _texts(language: str, num_bytes: int) -> list[str]:
    corpus = load_corpus(list(map(str, _files(language))), max_bytes=num_bytes)
    return list(corpus.texts("train"))


if __name__ == "__main__":
    main(measure)
