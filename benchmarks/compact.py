"""Stage 1: counting speed, select and rebuild, and what each selector costs in length.

On the standard library's text and a tokenizer trained on it, so it runs anywhere.
"""

import time
from collections import Counter
from itertools import islice

from _form import Numbers, best_seconds, main
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer import train_tokenizer
from pocketlm.stages.compact import compact
from pocketlm.stages.compact.count import count_tokens


def measure(quick: bool) -> Numbers:
    """Count, select and rebuild; `usage` against the paper's `frequency` at half the vocabulary."""
    num_tokens, num_documents = (4_096, 120) if quick else (32_768, 1_000)
    corpus = load_corpus(["stdlib"], max_bytes=1_000_000 if quick else None)
    tokenizer = train_tokenizer(corpus.texts("train"), vocab_size=num_tokens)
    texts = list(islice(corpus.texts("train"), num_documents))
    num_bytes = sum(len(text.encode()) for text in texts)

    def plain() -> object:
        counts: Counter[int] = Counter()
        for encoding in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False):
            counts.update(encoding.ids)
        return counts

    seconds = best_seconds({"ours": lambda: count_tokens(tokenizer, texts), "plain": plain}, 3)
    numbers: Numbers = {
        "count_mb_per_cpu_s": num_bytes / seconds["ours"] / 1e6,
        "count_ratio_to_tokenizers_counter": seconds["plain"] / seconds["ours"],
    }
    for name in ("usage", "frequency"):
        started = time.process_time()
        made = compact(tokenizer, corpus, vocab_size=num_tokens // 2, select=name)
        numbers[f"{name}_cpu_s"] = time.process_time() - started
        numbers[f"{name}_length_increase"] = made.tokens_per_byte / made.parent_tokens_per_byte - 1
    return numbers


if __name__ == "__main__":
    main(measure)
