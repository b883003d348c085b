"""Bits per document: how many bits a network needs for a text, whatever its tokenizer.

    bits(document) = - sum_t log2 p(x_t | x_max(0, ..), ..., x_{t-1})

Divided by the UTF-8 bytes of the text this compares models of different vocabularies (Gao et al.
2020, The Pile, section 3.1). Long documents are read through windows that overlap by half, so each
token is scored once, with at least half a window before it (Press et al. 2021, arXiv 2012.15832,
appendix B).

Shapes: N documents, B windows of a batch, T tokens of a window, M tokens scored, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pocketlm.errors import StageError
from pocketlm.units import BITS_PER_NAT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LOGITS_AT_ONCE = 2**24
"""Logits held at once, 64 MB of float32: a head of 150,000 tokens must not fill the memory."""
BATCH_TOKENS_CPU, BATCH_TOKENS = 2048, 65_536
"""Padded input of a batch. On a CPU larger ones leave the caches (measured: 8,192 takes a third
longer); elsewhere small ones leave the device idle."""


@dataclass(frozen=True, kw_only=True)
class DocumentBits:
    """One network's cost for N texts; every array is indexed by document."""

    bits_N: FloatArray
    """Summed -log2 p of the document's own tokens; the prefix is given, the suffix not scored."""
    bytes_N: IntArray
    """UTF-8 bytes of the text."""
    tokens_N: IntArray
    """Tokens scored."""
    unknown_N: IntArray
    """Tokens that stand for text the vocabulary cannot write; their bits say too little."""


class Window(NamedTuple):
    """Read ids[start:stop]; score what follows each of its positions from `first` on."""

    document: int
    start: int
    stop: int
    first: int


def document_bits(
    network: "PreTrainedModel",
    tokenizer: "Tokenizer",
    texts: Sequence[str],
    *,
    context: int,
    batch_tokens: int | None = None,
    autocast: bool = False,
) -> DocumentBits:
    """Score `texts` with up to `context` (2 or more) tokens before each token.

    `batch_tokens` follows the device unless given; it changes no result beyond rounding. float32
    unless `autocast` asks for bfloat16. The tokenizer's prefix token conditions the first
    token of a document; where there is none, the first token counts as uniform, log2 V bits.
    Raises `StageError` when a document's bits are not finite.
    """
    ids_N, unknown = tokenizer.encode_batch(list(texts)), tokenizer.unk_id
    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    bits_N = np.zeros(len(texts))
    if not prefix:
        bits_N += np.log2(tokenizer.num_tokens) * np.array([bool(ids) for ids in ids_N])
    framed_N = [prefix + ids for ids in ids_N]
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS_CPU if network.device.type == "cpu" else BATCH_TOKENS
    for batch in _batches(_windows([len(ids) for ids in framed_N], context), batch_tokens):
        for window, bits in zip(batch, _score(network, framed_N, batch, autocast), strict=True):
            bits_N[window.document] += bits
    if not np.isfinite(bits_N).all():
        where = int(np.flatnonzero(~np.isfinite(bits_N))[0])
        raise StageError(f"evaluate: the network gives {bits_N[where]} bits to document {where}")
    return DocumentBits(
        bits_N=bits_N,
        bytes_N=np.array([len(text.encode()) for text in texts], dtype=np.int64),
        tokens_N=np.array([len(ids) for ids in ids_N], dtype=np.int64),
        unknown_N=np.array([sum(i == unknown for i in ids) for ids in ids_N], dtype=np.int64),
    )


def _windows(lengths_N: Sequence[int], context: int) -> Iterator[Window]:
    """Windows of `context` tokens, half a window apart; each next token belongs to exactly one."""
    stride = max(1, context // 2)
    for document, length in enumerate(lengths_N):
        scored = 0
        for start in range(0, max(0, length - 1), stride):
            stop = min(start + context, length - 1)
            yield Window(document, start, stop, scored)
            scored = stop
            if stop == length - 1:
                break


def _batches(windows: Iterator[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows of like length together, the longest first, `batch_tokens` of padded input each."""
    ordered = iter(sorted(windows, key=lambda w: w.start - w.stop))
    while head := list(islice(ordered, 1)):
        longest = head[0].stop - head[0].start
        yield head + list(islice(ordered, max(1, batch_tokens // longest) - 1))


def _score(
    network: "PreTrainedModel", ids_N: list[list[int]], batch: list[Window], autocast: bool
) -> FloatArray:
    """Bits of each window's scored tokens, shape (B,).

    Padding stands to the right of a causal network, so no real token can see it: no mask needed.
    """
    import torch

    width = batch[0].stop - batch[0].start
    ids_BT = torch.zeros((len(batch), width), dtype=torch.long)
    targets_BT = torch.full((len(batch), width), -1)
    for row, (document, start, stop, first) in enumerate(batch):
        ids = ids_N[document]
        ids_BT[row, : stop - start] = torch.tensor(ids[start:stop])
        targets_BT[row, first - start : stop - start] = torch.tensor(ids[first + 1 : stop + 1])
    device = network.device
    ids_BT, targets_BT = ids_BT.to(device), targets_BT.to(device)
    cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast)
    with torch.inference_mode(), cast:
        hidden_BTD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        scored_BT = targets_BT >= 0
        nats_M = _nats(network, hidden_BTD[scored_BT], targets_BT[scored_BT])
    rows_M = scored_BT.nonzero()[:, 0].cpu().numpy()
    nats_B = np.bincount(rows_M, nats_M.cpu().numpy(), minlength=len(batch))
    return np.asarray(BITS_PER_NAT * nats_B, dtype=np.float64)


def _nats(
    network: "PreTrainedModel", hidden_MD: "torch.Tensor", targets_M: "torch.Tensor"
) -> "torch.Tensor":
    """Cross entropy of each target, float64, through the head in slices that fit the memory."""
    import torch

    head = network.get_output_embeddings()
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    slices = zip(torch.split(hidden_MD, rows), torch.split(targets_M, rows), strict=True)
    losses = [
        torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
        for hidden, targets in slices
    ]
    return torch.cat(losses).double()
