"""Counting speed: ours, the batch encoder with a Counter, and the paper's own way, in one run."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from _form import Numbers, best_seconds
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.stages.compact.encoders import ENCODERS, prove

_AT_ONCE = 256  # documents of a batch; lines of a shard


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> Numbers:
    """MB of text per CPU second. The paper's way starts from token ids; encoding is added to it."""
    num_mb = sum(len(text.encode()) for text in texts) / 1e6
    encoder = prove(tokenizer, list(texts[:: max(1, len(texts) // 300)]), among=tuple(ENCODERS))
    counter = ENCODERS[encoder].function(tokenizer)
    assert counter is not None
    repeats = 2 if num_mb < 8 else 1
    seconds = best_seconds(
        {"ours": lambda: counter(texts), "batch": lambda: _with_counter(tokenizer, texts)}, repeats
    )
    ours, plain = counter(texts), _with_counter(tokenizer, texts)
    assert {i: n for i, n in enumerate(ours.tolist()) if n} == dict(plain), "counts differ"
    seconds["paper"] = _paper(tokenizer, texts) + seconds["batch"]
    return {
        "mb_per_s": num_mb / seconds["ours"],
        "batch_mb_per_s": num_mb / seconds["batch"],
        "paper_mb_per_s": num_mb / seconds["paper"],
        "ratio": seconds["batch"] / seconds["ours"],
        "paper_ratio": seconds["paper"] / seconds["ours"],
    }


def _with_counter(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _AT_ONCE):
        some = list(texts[start : start + _AT_ONCE])
        for encoding in tokenizer.backend.encode_batch_fast(some, add_special_tokens=False):
            counts.update(encoding.ids)
    return counts


def _paper(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """CPU seconds of its first two steps on tokenised JSON lines: a dict per shard, then a sum."""
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for start in range(0, len(texts), _AT_ONCE):
            shard = Path(folder) / f"{start}.jsonl"
            ids = tokenizer.encode_batch(list(texts[start : start + _AT_ONCE]))
            shard.write_text("\n".join(json.dumps({"tokens": row}) for row in ids))
            shards.append(shard)
        started = time.process_time()
        for shard in shards:
            counts: dict[str, int] = {}
            for line in shard.read_text().splitlines():
                for token in json.loads(line)["tokens"]:
                    counts[str(token)] = counts.get(str(token), 0) + 1
            shard.with_suffix(".json").write_text(json.dumps(counts))
        total: dict[str, int] = {}
        for shard in shards:
            for token, count in json.loads(shard.with_suffix(".json").read_text()).items():
                total[token] = total.get(token, 0) + count
        np.array(sorted(total.values()))
        return time.process_time() - started
