"""Stage 1, compact: a vocabulary of the right size (arXiv 2402.02791, compact tokenizer).

Count -> select -> rebuild -> verify. The child's tokens are a subset of the parent's, so every
embedding row that stays is one that was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.method import pick
from pocketlm.stages.compact.count import count_tokens
from pocketlm.stages.compact.derive import read_vocabulary
from pocketlm.stages.compact.mandatory import mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import (
    SELECTORS,
    CurvePoint,
    check_size,
    choose,
    size_curve,
)
from pocketlm.stages.compact.verify import NUM_SAMPLES, verify

if TYPE_CHECKING:
    from pocketlm.corpus.documents import Corpus

__all__ = ["SELECTORS", "Compacted", "CurvePoint", "compact"]


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """The child's tokenizer and the only bridge to the parent's. V child ids, P parent ids."""

    tokenizer: Tokenizer
    kept_V: npt.NDArray[np.int64]
    """Child id -> parent id, ascending."""
    counts_P: npt.NDArray[np.int64]
    """Final pieces of the parent's tokenizer on the training text."""
    provenance: tuple[str, ...]
    """Why each kept token stayed: special, added, byte, chat, keep, ancestor, or the selector."""
    coverage: float
    """Share of the training text's tokens whose piece is kept, 0..1."""
    tokens_per_byte: float
    """Length under the child's tokenizer, on the text for choosing."""
    parent_tokens_per_byte: float
    """Length under the parent's, on the same text."""
    curve: tuple[CurvePoint, ...]
    """What other sizes would cost, by usage, on the training text."""


def compact(
    tokenizer: Tokenizer,
    corpus: "Corpus",
    *,
    vocab_size: int | None,
    select: str = "usage",
    keep: Sequence[str] = (),
) -> Compacted:
    """Keep the `vocab_size` tokens that `corpus` needs most; None keeps all.

    `select` names one of `SELECTORS`; the tokens of the texts `keep` stay whatever their count.
    Raises `RecipeError` for a size out of reach, `StageError` if the result does not hold.
    """
    selector = pick(SELECTORS, select, "[compact] select")
    vocabulary = read_vocabulary(tokenizer)
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=keep)
    check_size(vocab_size, num_tokens=vocabulary.ids.size, num_mandatory=len(mandatory))
    counts = count_tokens(tokenizer, corpus.texts("train"))
    ranking = selector(vocabulary, counts.counts_P)
    kept_V = choose(ranking, mandatory, vocab_size)
    child = rebuild(tokenizer, kept_V)
    samples = list(islice(corpus.texts("choose"), NUM_SAMPLES))
    verify(tokenizer, child, kept_V, texts=samples, closed=ranking.closed)
    return Compacted(
        tokenizer=child,
        kept_V=kept_V,
        counts_P=counts.counts_P,
        provenance=tuple(mandatory.get(i, select) for i in kept_V.tolist()),
        coverage=float(counts.counts_P[kept_V].sum() / counts.num_tokens),
        tokens_per_byte=count_tokens(child, corpus.texts("choose")).tokens_per_byte,
        parent_tokens_per_byte=count_tokens(tokenizer, corpus.texts("choose")).tokens_per_byte,
        curve=size_curve(vocabulary, counts, mandatory),
    )
