"""Proof before delivery: a file is read back, run where it will run, and compared with the child.

- tensors: every number of the file equals the child's, up to the file's own rounding;
- tokens: llama.cpp cuts texts into the same ids;
- greedy: each token llama.cpp picks is, for a network of the file's own weights, the best one or
  within a tolerance of it, because llama.cpp also rounds activations (to float16, or to Q8_0);
- probabilities: those of the ten likeliest tokens at every such place, within a tolerance.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import StageError
from pocketlm.stages.export.agreement import greedy_gaps, num_best, places, probability_gap
from pocketlm.stages.export.gguf import (
    StoredTensor,
    deinterleave,
    import_gguf,
    stored_tensors,
    turned_heads,
)
from pocketlm.stages.export.llama_cpp import Answer, Job, ask_llama_cpp
from pocketlm.stages.export.quantise import PLAIN, Choice, FloatArray, Weights, rounding
from pocketlm.stages.export.vocabulary import Vocabulary, normalised

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


@dataclass(frozen=True)
class Tolerance:
    """How far llama.cpp may stand from a network of the file's own weights."""

    greedy: float
    """Largest gap between the best logit and the picked one, in standard deviations of the logits.
    """
    probability: float
    """Largest difference in probability of one of the likeliest tokens."""


TOLERANCE: Mapping[Weights, Tolerance] = {
    "F32": Tolerance(0.03, 0.03),
    "F16": Tolerance(0.03, 0.03),
    "BF16": Tolerance(0.1, 0.1),
    "Q8_0": Tolerance(0.3, 0.15),
    "Q5_0": Tolerance(0.3, 0.15),
    "Q4_0": Tolerance(0.3, 0.15),
}
"""By what a file's matrices are kept as: llama.cpp rounds activations too, to float16 or bfloat16
before matrices in those, to Q8_0 before every Q format.

Ours: gaps of trained children are 0 to 0.03; of random ones with wide weights, where rounding of
activations grows from layer to layer, 0.22 in 1 of 100 tokens and 0.5 at worst. Rows in a wrong
order give 3 and more, most of the time."""

WORST_GAP = 1.0
"""No pick may lie further below the best logit, in standard deviations of the logits."""

K_QUANT_ERROR = 0.15
"""Norm of a K-quant's error over the tensor's, at most; 4 bit in blocks make about 0.08."""

NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS, LIKELIEST = 64, 16, 16, 10


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was compared or measured before delivery, and what came out."""

    name: str
    value: float
    unit: str
    note: str = ""
    """The result in words; empty for what is only measured."""


def read_back(
    path: Path,
    child: "Child",
    weights: Weights,
    choice: Choice = PLAIN,
    *,
    requantised: bool = False,
) -> "Child":
    """The file's numbers as a child again; raises `StageError` where they are not the child's.

    `requantised`: written by llama.cpp itself in formats of its own choice; each tensor is then
    near the child's as a whole, not number by number.
    """
    import torch

    gguf = import_gguf()
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensors, num_heads = {}, turned_heads(child)
    for stored in stored_tensors(child, weights, choice):
        if stored.name not in found:
            raise StageError(f"export: {path.name} has no tensor {stored.name}")
        raw = found.pop(stored.name)
        values = gguf.dequantize(raw.data, raw.tensor_type).reshape(stored.values.shape)
        if not _is_near(stored, values, requantised=requantised):
            raise StageError(f"export: {path.name} does not hold the child's {stored.name}")
        if stored.source:
            tensors[stored.source] = torch.from_numpy(_as_child(stored, values, num_heads).copy())
    if found:
        raise StageError(f"export: {path.name} holds a tensor too many, {min(found)}")
    return replace(child, tensors=tensors)


def check_tensors(
    path: Path, child: "Child", weights: Weights, choice: Choice = PLAIN
) -> tuple["Child", Check]:
    """Read the file back; its own numbers as a child, and what was kept wider than asked for."""
    read = read_back(path, child, weights, choice)
    kept = Counter(t.weights for t in stored_tensors(child, weights, choice) if t.values.ndim > 1)
    note = "every tensor read back, equal up to the format's rounding"
    uneven = kept["F16"] if weights.startswith("Q") and "F16" not in choice.parts.values() else 0
    if uneven:
        note += f" ({uneven} matrices kept F16: their rows are no multiple of 32)"
    chosen = {kind: count for kind, count in kept.items() if kind not in (weights, "F16")}
    note += "".join(f" ({count} matrices kept {kind})" for kind, count in chosen.items())
    return read, Check(name="tensors_equal", value=1, unit="share", note=note)


def check_in_llama_cpp(
    path: Path,
    read: "Child",
    child: "Child",
    tokenizer: "Tokenizer",
    vocabulary: Vocabulary,
    tolerance: Tolerance,
    texts: Sequence[str],
) -> tuple[Check, ...]:
    """Tokenize `texts` and continue 64 in llama.cpp; raises `StageError` if it differs."""
    prompts = _prompts(tokenizer, texts)
    answer = ask_llama_cpp(
        Job(model=str(path), prompts=prompts, new_tokens=NEW_TOKENS, texts=list(texts),
            likeliest=min(LIKELIEST, child.shape.vocab_size))
    )  # fmt: skip
    tokens = _check_tokens(path.name, answer, tokenizer, vocabulary, texts)
    own = places(read.network(), prompts, answer)
    (usual, worst), share_gap = greedy_gaps(own), probability_gap(own)
    if not (usual <= tolerance.greedy and worst <= WORST_GAP):
        raise StageError(
            f"export: {path.name}: llama.cpp picks a token {worst:.3g} standard deviations below "
            f"the best one, and 1 in 100 is {usual:.3g} off; {tolerance.greedy} is allowed for its "
            "rounding"
        )
    if not share_gap <= tolerance.probability:
        raise StageError(
            f"export: {path.name}: llama.cpp gives one of its {LIKELIEST} likeliest tokens a "
            f"probability {share_gap:.3g} from the file's own; {tolerance.probability} is allowed"
        )
    best, count = num_best(places(child.network(), prompts, answer)), len(own)
    note = f"{best} of its {count} greedy tokens after {len(prompts)} prompts are the child's own"
    return (
        tokens,
        Check(name="greedy_gap", value=worst, unit="standard deviations of the logits"),
        Check(name="greedy_as_child", value=best / count, unit="share", note=note),
        Check(name="probability_gap", value=share_gap, unit="probability, 10 likeliest tokens"),
    )


def _is_near(stored: StoredTensor, values: FloatArray, *, requantised: bool) -> bool:
    error = np.abs(values - stored.values)
    if requantised:
        return bool(np.linalg.norm(error) <= K_QUANT_ERROR * np.linalg.norm(stored.values))
    return bool((error <= rounding(stored.values, stored.weights)).all())


def _as_child(stored: StoredTensor, values: FloatArray, num_heads: Mapping[str, int]) -> FloatArray:
    part = stored.source.split(".")[-2]
    return deinterleave(values, num_heads[part]) if part in num_heads else values


def _prompts(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Beginnings of the first texts the way the model sees documents; one token at the least."""
    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    ids = tokenizer.encode_batch(list(texts[:NUM_PROMPTS]))
    return [prompt for own in ids if (prompt := [*prefix, *own[:PROMPT_TOKENS]])] or [prefix or [0]]


def _check_tokens(
    file: str,
    answer: Answer,
    tokenizer: "Tokenizer",
    vocabulary: Vocabulary,
    texts: Sequence[str],
) -> Check:
    """All texts alike, apart from those llama.cpp cannot be given: the share and the reasons."""
    added = [tokenizer.bos_id] if tokenizer.adds_bos else []
    excused: Counter[str] = Counter()
    ids_N = tokenizer.encode_batch(list(texts))
    rows = zip(texts, ids_N, answer.ids, answer.framed_ids, strict=True)
    for text, ids, own, framed in rows:
        if own == ids and framed == [*added, *ids]:
            continue
        reason = _excuse(text, ids, tokenizer, vocabulary)
        if reason is None:
            raise StageError(f"export: {file}: llama.cpp cuts {text[:40]!r} into other tokens")
        excused[reason] += 1
    equal = len(texts) - sum(excused.values())
    note = f"llama.cpp cuts {equal} of {len(texts)} texts into the same tokens"
    note += "".join(f", {count} {reason}" for reason, count in excused.items())
    share = equal / len(texts) if texts else 1.0
    return Check(name="tokens_equal", value=share, unit="share", note=note)


def _excuse(
    text: str, ids: Sequence[int], tokenizer: "Tokenizer", vocabulary: Vocabulary
) -> str | None:
    """Why llama.cpp may cut this text otherwise; None where it must not."""
    if not vocabulary.has_bytes and tokenizer.unk_id in ids:
        return "hold characters outside the vocabulary, which it refuses"
    if normalised(tokenizer, text) != vocabulary.as_written(text):
        return "are normalised first, which it does not do"
    return None
