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
from pocketlm.errors import StageError
from pocketlm.method import pick
from pocketlm.progress import SILENT, Progress
from pocketlm.stages.compact.count import Counts, How, count_texts
from pocketlm.stages.compact.counting import count_corpus
from pocketlm.stages.compact.curve import Curve, CurvePoint
from pocketlm.stages.compact.derive import Vocabulary, read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import SELECTORS, Observed, choose
from pocketlm.stages.compact.size import (
    Size,
    curve_of,
    decide_size,
    overfit_warning,
    script_warning,
)
from pocketlm.stages.compact.verify import Check, verify

if TYPE_CHECKING:
    from pocketlm.corpus.documents import Corpus

__all__ = ["SELECTORS", "Compacted", "Counted", "Keep", "Size", "compact", "count"]

NUM_SAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The parent's tokens in each part of a corpus; every size and selector starts here."""

    train: Counts
    choose: Counts
    held_out: Counts


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """The child's tokenizer and the only bridge to the parent's. V child ids, P parent ids."""

    tokenizer: Tokenizer
    kept_V: npt.NDArray[np.int64]
    """Child id -> parent id, ascending."""
    counts_P: npt.NDArray[np.int64]
    """Final pieces of the parent's tokenizer on the training text, sources weighted."""
    provenance: tuple[str, ...]
    """Why each kept token stayed: special, added, byte, chat, keep, pattern, script, ancestor, or
    the selector."""
    size_reason: str
    """Why there are so many."""
    law_vocab_size: int | None
    """What the published vocabulary law would take, where the body is known."""
    coverage: float
    """Share of the training text's tokens whose piece is kept, 0..1."""
    coverage_interval: tuple[float, float] | None
    """95 % interval of the coverage, where only a sample was counted."""
    tokens_per_byte: float
    """Length under the child's tokenizer, on held-out text."""
    parent_tokens_per_byte: float
    """Length under the parent's, on the same text."""
    dead_slots: int
    """Kept tokens that no text can produce any more; 0 for every closed selector."""
    curve: tuple[CurvePoint, ...]
    """What other sizes would cost, on the training text."""
    checks: tuple[Check, ...]
    """What `verify` found."""
    warnings: tuple[str, ...]
    """What a user should know before going on, a line each."""

    @property
    def inflation(self) -> float:
        """Growth of held-out text in tokens: 0.02 is 2 % longer."""
        return self.tokens_per_byte / self.parent_tokens_per_byte - 1


def count(
    tokenizer: Tokenizer, corpus: "Corpus", *, how: How | None = None, progress: Progress = SILENT
) -> Counted:
    """Count every part of `corpus` once; raises `CorpusError`."""
    how = how or How()
    train = count_corpus(tokenizer, corpus, "train", how=how, progress=progress)
    choosing = count_corpus(tokenizer, corpus, "choose", progress=progress)
    held_out = count_corpus(tokenizer, corpus, "held-out", progress=progress)
    return Counted(train=train, choose=choosing, held_out=held_out)


def compact(
    tokenizer: Tokenizer,
    corpus: "Corpus",
    *,
    vocab_size: int | Size | None = None,
    select: str = "usage",
    keep: Keep | Sequence[str] = (),
    counted: Counted | None = None,
) -> Compacted:
    """Keep the tokens that `corpus` needs most: `vocab_size` of them, or as many as a `Size` says.

    `select` names one of `SELECTORS`; what `keep` names stays whatever its count. With `counted`
    the training text is not read again. Raises `RecipeError` for a size out of reach, `StageError`
    if the result does not hold.
    """
    selector = pick(SELECTORS, select, "[compact] select")
    vocabulary = read_vocabulary(tokenizer)
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=_as_keep(keep))
    counted = counted or count(tokenizer, corpus)
    train_P = counted.train.counts_P
    ranking = selector(vocabulary, Observed(train_P=train_P, choose_P=counted.choose.counts_P))
    curve = curve_of(vocabulary, ranking, mandatory, counted.train)
    decision = decide_size(_as_size(vocab_size), curve, mandatory, vocabulary.ids.size)
    kept_V = choose(ranking, mandatory, decision.vocab_size)
    child = rebuild(tokenizer, kept_V)
    samples = list(islice(corpus.texts("choose"), NUM_SAMPLES))
    checks = verify(tokenizer, child, kept_V, samples)
    _insist(checks, closed=ranking.closed)
    length = count_texts(child, corpus.texts("held-out")).tokens_per_byte
    return Compacted(
        tokenizer=child,
        kept_V=kept_V,
        counts_P=train_P,
        provenance=tuple(mandatory.get(i, select) for i in kept_V.tolist()),
        size_reason="; ".join(filter(None, (decision.reason, ranking.note))),
        law_vocab_size=decision.law_vocab_size,
        coverage=float(train_P[kept_V].sum() / counted.train.num_tokens),
        coverage_interval=counted.train.coverage_interval(kept_V),
        tokens_per_byte=length,
        parent_tokens_per_byte=counted.held_out.tokens_per_byte,
        dead_slots=_failed(checks, "reachable"),
        curve=curve.points(),
        checks=checks,
        warnings=_warnings(vocabulary, kept_V, counted, curve, length),
    )


def _as_keep(keep: Keep | Sequence[str]) -> Keep:
    return keep if isinstance(keep, Keep) else Keep(texts=tuple(keep))


def _as_size(vocab_size: int | Size | None) -> Size:
    return vocab_size if isinstance(vocab_size, Size) else Size(number=vocab_size)


def _warnings(
    vocabulary: Vocabulary,
    kept_V: npt.NDArray[np.int64],
    counted: Counted,
    curve: Curve,
    length: float,
) -> tuple[str, ...]:
    """`curve` is the training text's; `length` tokens per byte were measured on held-out text."""
    in_sample = curve.at(kept_V.size).tokens_per_byte / counted.train.tokens_per_byte - 1
    overfit = overfit_warning(in_sample, length / counted.held_out.tokens_per_byte - 1)
    unseen = script_warning(vocabulary, kept_V, counted.train.counts_P, counted.held_out.counts_P)
    return (*([overfit] if overfit else []), *unseen)


def _failed(checks: Sequence[Check], name: str) -> int:
    return next(check.failed for check in checks if check.name == name)


_CLOSED_ONLY = ("reachable", "same ids", "framed")


def _insist(checks: Sequence[Check], *, closed: bool) -> None:
    """Failed checks are our bug, except what an open selection is known to break."""
    for check in checks:
        if not check.passed and (closed or check.name not in _CLOSED_ONLY):
            raise StageError(f"compact: {check.name}: {check.note}")
