"""Proof before delivery: a file is read back, run where it will run, and compared with the child.

- tensors: every number of the file equals the child's, up to the file's own rounding;
- tokens: llama.cpp cuts texts into the same ids;
- greedy: each token llama.cpp picks is, for a network of the file's own weights, the best one or
  within a tolerance of it, because llama.cpp also rounds activations (to float16, or to Q8_0).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.errors import StageError
from pocketlm.stages.export.gguf import (
    FloatArray,
    StoredTensor,
    Weights,
    deinterleave,
    import_gguf,
    stored_tensors,
)
from pocketlm.stages.export.llama_cpp import Answer, Job, ask_llama_cpp
from pocketlm.stages.export.vocabulary import Vocabulary, normalised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child

TOLERANCE: Mapping[Weights, float] = {"F16": 0.03, "Q8_0": 0.2}
"""Largest gap between the best logit and the picked one, in standard deviations of the logits.

Ours: measured gaps of trained children are 0 and 0.01; rows in a wrong order give 1 and more."""

NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 16, 32


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was compared or measured before delivery, and what came out."""

    name: str
    value: float
    unit: str
    note: str = ""
    """The result in words; empty for what is only measured."""


def read_back(path: Path, child: "Child", weights: Weights) -> "Child":
    """The file's numbers as a child again; raises `StageError` where they are not the child's."""
    import torch

    gguf = import_gguf()
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensors = {}
    for stored in stored_tensors(child, weights):
        if stored.name not in found:
            raise StageError(f"export: {path.name} has no tensor {stored.name}")
        raw = found.pop(stored.name)
        values = gguf.dequantize(raw.data, raw.tensor_type).reshape(stored.values.shape)
        error = np.abs(values - stored.values)
        if not (error <= _rounding(stored)).all():
            raise StageError(f"export: {path.name} does not hold the child's {stored.name}")
        if stored.source:
            tensors[stored.source] = torch.from_numpy(_as_child(stored, values, child).copy())
    if found:
        raise StageError(f"export: {path.name} holds a tensor too many, {min(found)}")
    return replace(child, tensors=tensors)


def check_tensors(path: Path, child: "Child", weights: Weights) -> tuple["Child", Check]:
    """Read the file back; its own numbers as a child, and what was kept wider than asked for."""
    read = read_back(path, child, weights)
    wider = sum(t.weights == "F16" for t in stored_tensors(child, weights) if weights == "Q8_0")
    note = "every tensor read back, equal up to the format's rounding"
    if wider:
        note += f" ({wider} matrices kept F16: their rows are no multiple of 32)"
    return read, Check(name="tensors_equal", value=1, unit="share", note=note)


def check_in_llama_cpp(
    path: Path,
    read: "Child",
    child: "Child",
    tokenizer: "Tokenizer",
    vocabulary: Vocabulary,
    tolerance: float,
    texts: Sequence[str],
) -> tuple[Check, ...]:
    """Tokenize `texts` and continue a few in llama.cpp; raises `StageError` if it differs."""
    prompts = _prompts(tokenizer, texts)
    answer = ask_llama_cpp(
        Job(model=str(path), prompts=prompts, new_tokens=NEW_TOKENS, texts=list(texts))
    )
    tokens = _check_tokens(path.name, answer, tokenizer, vocabulary, texts)
    worst = _worst_gap(read.network(), prompts, answer.continuations)
    if not worst <= tolerance:
        raise StageError(
            f"export: {path.name}: llama.cpp picks a token {worst:.3g} standard deviations below "
            f"the best one; {tolerance} is allowed for its rounding"
        )
    best = _num_best(child.network(), prompts, answer.continuations)
    count = sum(map(len, answer.continuations))
    note = f"{best} of its {count} greedy tokens are the child's own"
    speed = answer.decode_tokens_per_s
    return (
        tokens,
        Check(name="greedy_gap", value=worst, unit="standard deviations of the logits"),
        Check(name="greedy_as_child", value=best / count, unit="share", note=note),
        Check(name="load_s", value=answer.load_s, unit="s"),
        Check(name="decode_tokens_per_s", value=speed, unit="tokens/s, one thread"),
    )


def _rounding(stored: StoredTensor) -> FloatArray | float:
    """The largest error the file's format may make, per number."""
    values = stored.values
    if stored.weights == "F32":
        return 0.0
    if stored.weights == "F16":
        kept: FloatArray = values.astype(np.float16).astype(np.float32)
        return np.asarray(np.abs(kept - values))
    # Half a step of the block's scale, and the scale itself is rounded to float16.
    scale = np.abs(values.reshape(-1, 32)).max(axis=1, keepdims=True) / np.float32(127)
    kept = scale.astype(np.float16).astype(np.float32)
    bound = np.float32(0.5001) * scale + 127 * np.abs(scale - kept)
    return np.repeat(bound, 32, axis=1).reshape(values.shape)


def _as_child(stored: StoredTensor, values: FloatArray, child: "Child") -> FloatArray:
    heads = {"q_proj": child.shape.heads, "k_proj": child.shape.kv_heads}
    part = stored.source.split(".")[-2]
    return deinterleave(values, heads[part]) if part in heads else values


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


def _worst_gap(
    network: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> float:
    """How far below the best logit a pick lies at worst, in standard deviations of its logits."""
    gaps = [
        float((logits_V.max() - logits_V[token]) / logits_V.std())
        for logits_V, token in _picks(network, prompts, continuations)
    ]
    return max(gaps, default=0.0)


def _num_best(
    network: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> int:
    """Picks that are the network's own best after the same tokens."""
    picks = _picks(network, prompts, continuations)
    return sum(int(logits_V.argmax()) == token for logits_V, token in picks)


def _picks(
    network: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> Iterator[tuple[FloatArray, int]]:
    """Each token that continues a prompt, with the network's logits_V at its place."""
    import torch

    for prompt, tokens in zip(prompts, continuations, strict=True):
        with torch.inference_mode():
            logits = network(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits
        logits_TV = logits[0, len(prompt) - 1 : -1].numpy()
        yield from zip(logits_TV, tokens, strict=True)
