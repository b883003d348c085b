"""Whether transformers reads what was written, and the cut model still is its parent.

Shapes: V child ids, T tokens.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pocketlm.corpus.documents import Corpus
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import StageError
from pocketlm.model.vocab_axes import VocabularyAxes
from pocketlm.model.vocab_check import can_run, compare_logits
from pocketlm.model.vocab_rows import first_difference
from pocketlm.stages.compact import Compacted
from pocketlm.stages.compact.verify import Check

LOGIT_TOLERANCE = 1e-6
"""Of the largest logit, or of 1: float32 sums of another matrix width round otherwise."""

NUM_WINDOWS = 8
WINDOW_TOKENS = 32
NUM_SEARCHED = 200
SEARCHED_CHARACTERS = 2000


def check_tokenizer(tokenizer: Tokenizer, corpus: Corpus, folder: Path) -> Check:
    """Whether `AutoTokenizer` reads `folder` as `tokenizer`.

    It need not: for some values of model_type in config.json transformers takes a class of its own
    whatever the tokenizer's files say.
    """
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [text[:SEARCHED_CHARACTERS] for text in islice(corpus.texts("choose"), NUM_SEARCHED)]
    how = {"add_special_tokens": False, "split_special_tokens": True}
    wrong = [
        text
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
        if reloaded(text, **how)["input_ids"] != ids
    ]
    note = f"{type(reloaded).__name__} cuts {len(wrong)} texts otherwise; read tokenizer.json alone"
    return Check(
        name="AutoTokenizer", passed=not wrong, tried=len(texts), note=note if wrong else ""
    )


def check_model(
    vocabulary: VocabularyAxes,
    tokenizer: Tokenizer,
    compacted: Compacted,
    corpus: Corpus,
    folder: Path,
) -> tuple[Check, ...]:
    """Hold the model in `folder` against its parent, `vocabulary` with its `tokenizer`.

    A small one is run: logits on kept tokens equal the parent's. A large one is read back byte for
    byte. Raises `StageError` if either fails.
    """
    if can_run(vocabulary):
        windows = list(islice(kept_windows(tokenizer, compacted, corpus), NUM_WINDOWS))
        checks = _run(vocabulary, compacted, folder, windows)
    else:
        checks = _read_back(vocabulary, compacted, folder)
    for check in checks:
        if not check.passed:
            raise StageError(f"compact: {check.name}: {check.note}")
    return checks


def kept_windows(tokenizer: Tokenizer, compacted: Compacted, corpus: Corpus) -> Iterator[list[int]]:
    """Child ids of runs of the corpus whose pieces are all kept: the longest run of each text."""
    new_P = np.full(tokenizer.num_tokens, -1)
    new_P[compacted.kept_V] = np.arange(compacted.kept_V.size)
    for text in islice(corpus.texts("choose"), NUM_SEARCHED):
        new_T = new_P[tokenizer.encode(text[:SEARCHED_CHARACTERS])]
        runs = np.split(new_T, np.flatnonzero(new_T < 0))
        longest = max(([i for i in run.tolist() if i >= 0] for run in runs), key=len)
        if len(longest) > 1:
            yield longest[:WINDOW_TOKENS]


def _run(
    vocabulary: VocabularyAxes, compacted: Compacted, folder: Path, windows: list[list[int]]
) -> tuple[Check, ...]:
    found = compare_logits(vocabulary, folder, compacted.kept_V, windows)
    keys = Check(
        name="model loads",
        passed=not found.wrong_keys,
        tried=len(vocabulary.axes),
        note=", ".join(found.wrong_keys),
    )
    logits = Check(
        name="kept logits",
        passed=found.largest_difference <= LOGIT_TOLERANCE * max(1.0, found.largest_logit),
        tried=found.num_positions,
        note=f"largest difference {found.largest_difference:.1e}, largest logit "
        f"{found.largest_logit:.1f}",
    )
    return keys, logits


def _read_back(vocabulary: VocabularyAxes, compacted: Compacted, folder: Path) -> tuple[Check, ...]:
    wrong = first_difference(vocabulary.folder, compacted.kept_V, folder)
    note = f"{wrong} differs" if wrong else "read back, not run: the model is large"
    num_tensors = sum(len(file.tensors) for file in vocabulary.files)
    return (Check(name="kept rows", passed=wrong is None, tried=num_tensors, note=note),)
