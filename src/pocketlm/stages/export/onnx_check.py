"""Proof before delivery: the file runs in onnxruntime and says what the child says.

- numbers: every one of the file is the child's, up to the file's own rounding;
- logits: of prompts alone, and of a batch padded to one length, against a transformers network of
  the file's own numbers;
- greedy: tokens picked one by one through the cache, against the same network over whole texts.
8-bit files also round what runs through them, by the range of each batch, so their logits differ.
Shapes: B sequences, T new tokens, S tokens with those in the cache, V vocabulary.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import StageError
from pocketlm.stages.export.onnx import read_back
from pocketlm.stages.export.onnx_graph import FloatArray, Precision
from pocketlm.stages.export.verify import Check

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child

Ids = npt.NDArray[np.int64]

TOLERANCE: Mapping[Precision, float] = {"f32": 1e-4, "int8": 0.5}
"""Largest error of the logits of a place (rms over the vocabulary) and largest gap of a picked
token below the best one, both in standard deviations of the logits there.

Ours: trained children give 1e-6 and 0 (f32), 0.17 and 0.1 (int8); unrelated logits are 1.4 off."""

NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 16, 24
SPEED_TOKENS, SPEED_ROUNDS = 128, 3


@dataclass(frozen=True)
class Session:
    """The file in onnxruntime, on one thread."""

    runtime: Any
    child: "Child"

    @classmethod
    def load(cls, path: Path, child: "Child") -> "Session":
        """Raises `StageError` when onnxruntime does not take the file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            runtime = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # its own errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"export: onnxruntime does not load {path.name}: {reason}") from None
        return cls(runtime, child)

    def step(
        self, ids_BT: Ids, mask_BS: Ids, past: Sequence[FloatArray] | None = None
    ) -> tuple[FloatArray, list[FloatArray]]:
        """Logits [B, T, V] and the cache with these tokens; no `past` is an empty one."""
        shape = self.child.shape
        if past is None:
            empty = np.zeros((len(ids_BT), shape.kv_heads, 0, shape.head_dim), np.float32)
            past = [empty] * (2 * shape.layers)
        names = [place.name for place in self.runtime.get_inputs()]
        given = dict(zip(names, (ids_BT, mask_BS, *past), strict=True))
        logits, *present = self.runtime.run(None, given)
        return logits, present

    def greedy(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Tokens after `prompt`, each the best one, through the cache."""
        ids_1T, past, tokens = np.array([prompt], np.int64), None, list[int]()
        for _ in range(new_tokens):
            mask_1S = np.ones((1, len(prompt) + len(tokens)), np.int64)
            logits, past = self.step(ids_1T, mask_1S, past)
            tokens.append(int(logits[0, -1].argmax()))
            ids_1T = np.array([tokens[-1:]], np.int64)
        return tokens


def check_in_onnxruntime(
    path: Path,
    child: "Child",
    tokenizer: "Tokenizer",
    texts: Sequence[str],
    *,
    precision: Precision,
) -> tuple[Check, ...]:
    """Run prompts out of `texts`; raises `StageError` where the file differs from the child."""
    network = read_back(path, child, precision).network()
    started = time.thread_time()
    session = Session.load(path, child)
    load_s = time.thread_time() - started
    prompts = _prompts(tokenizer, texts)
    limit, unit = TOLERANCE[precision], "standard deviations of the logits"
    error = max(_error_alone(session, network, prompts), _error_padded(session, network, prompts))
    if not error <= limit:
        raise StageError(
            f"export: {path.name}: logits in onnxruntime are {error:.3g} {unit} off; {limit} is "
            "allowed"
        )
    written = [session.greedy(prompt, NEW_TOKENS) for prompt in prompts]
    gaps = _gaps(network, prompts, written)
    if not max(gaps) <= limit:
        raise StageError(
            f"export: {path.name}: onnxruntime picks a token {max(gaps):.3g} {unit} below the best "
            f"one; {limit} is allowed"
        )
    own = _gaps(child.network(), prompts, written)
    share = sum(gap == 0 for gap in own) / len(own)
    note = f"{round(share * len(own))} of its {len(own)} greedy tokens are the child's own"
    return (
        Check(
            name="logits_error", value=error, unit=unit, note="logits as the child's, padded too"
        ),
        Check(name="greedy_gap", value=max(gaps), unit=unit),
        Check(name="greedy_as_child", value=share, unit="share", note=note),
        Check(name="load_s", value=load_s, unit="s"),
        *_speed(session),
    )


def _prompts(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Beginnings of texts as the model sees documents, of different lengths; one at the least."""
    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    ids_N = tokenizer.encode_batch(list(texts[:NUM_PROMPTS]))
    cut = [[*prefix, *ids[: max(1, PROMPT_TOKENS - i)]] for i, ids in enumerate(ids_N)]
    return [prompt for prompt in cut if prompt] or [prefix or [0]]


def _error_alone(
    session: Session, network: "PreTrainedModel", prompts: Sequence[Sequence[int]]
) -> float:
    """At the worst place: rms error over the vocabulary, in standard deviations of its logits."""
    worst = 0.0
    for prompt in prompts:
        ids_1T = np.array([prompt], np.int64)
        logits, _ = session.step(ids_1T, np.ones_like(ids_1T))
        worst = max(worst, _error(logits[0], _logits(network, prompt)))
    return worst


def _error_padded(
    session: Session, network: "PreTrainedModel", prompts: Sequence[Sequence[int]]
) -> float:
    """The same for all prompts as one batch, filled up on the left."""
    longest = max(map(len, prompts))
    ids_BT = np.array([[0] * (longest - len(prompt)) + [*prompt] for prompt in prompts], np.int64)
    mask_BT = np.array([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], np.int64)
    logits, _ = session.step(ids_BT, mask_BT)
    errors = (
        _error(own[longest - len(prompt) :], _logits(network, prompt))
        for own, prompt in zip(logits, prompts, strict=True)
    )
    return max(errors)


def _gaps(
    network: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    written: Sequence[Sequence[int]],
) -> list[float]:
    """How far each written token is below the network's best, in standard deviations."""
    gaps = []
    for prompt, tokens in zip(prompts, written, strict=True):
        logits_TV = _logits(network, [*prompt, *tokens])[len(prompt) - 1 : -1]
        below = logits_TV.max(axis=1) - logits_TV[np.arange(len(tokens)), list(tokens)]
        gaps += (below / logits_TV.std(axis=1)).tolist()
    return gaps


def _error(logits_TV: FloatArray, expected_TV: FloatArray) -> float:
    rms_T = np.sqrt(((logits_TV - expected_TV) ** 2).mean(axis=1))
    return float((rms_T / expected_TV.std(axis=1)).max())


def _logits(network: "PreTrainedModel", ids: Sequence[int]) -> FloatArray:
    import torch

    with torch.inference_mode():
        logits: FloatArray = network(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
    return logits


def _speed(session: Session) -> tuple[Check, Check]:
    """Tokens a second of a prompt read at once and of tokens written after it; CPU time, best of
    a few rounds, since other programs only slow it down."""
    vocab_size = session.child.shape.vocab_size
    prompt_1T = (np.arange(SPEED_TOKENS, dtype=np.int64) * 7919 % vocab_size)[None]
    reading, writing = [], []
    for _ in range(SPEED_ROUNDS):
        started = time.thread_time()
        _, past = session.step(prompt_1T, np.ones_like(prompt_1T))
        reading.append(time.thread_time() - started)
        started = time.thread_time()
        for new in range(1, 33):
            mask_1S = np.ones((1, SPEED_TOKENS + new), np.int64)
            _, past = session.step(prompt_1T[:, new : new + 1], mask_1S, past)
        writing.append(time.thread_time() - started)
    unit = "tokens/s, one thread"
    return (
        Check(name="prefill_tokens_per_s", value=SPEED_TOKENS / min(reading), unit=unit),
        Check(name="decode_tokens_per_s", value=32 / min(writing), unit=unit),
    )
