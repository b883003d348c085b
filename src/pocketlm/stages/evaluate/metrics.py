"""What a benchmark's records say: accuracy against guessing, and what is finer than accuracy.

    choice       argmin_c nats_c / length_c, the first of equals; length by NORMALISERS
    corrected    mean of (hit - 1/C) / (1 - 1/C): 0 for guessing whatever each item's number of
                 options, 1 for all right
    probability  of the right choice: exp(-nats_g/length_g) / sum_c exp(-nats_c/length_c), the
                 length-normalised correct probability of Magnusson et al. 2025 (DataDecide,
                 arXiv 2504.11393): moves long before choices change
    bits/byte    sum of bits of the right answers / sum of their UTF-8 bytes, as for documents
    MCC          Matthews correlation of right and chosen places
    by part      mean over the task's subjects, each weighing the same

Shapes: N items, F choices of all of them, C choices of one item, B resamples, P parts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pocketlm.errors import StageError
from pocketlm.method import Method, pick
from pocketlm.stages.evaluate.columns import Columns, codes
from pocketlm.stages.evaluate.provenance import Origin
from pocketlm.stages.evaluate.resampling import Resampled, cells, mcc, ratio
from pocketlm.stages.evaluate.rouge import KINDS
from pocketlm.statistics import (
    Floats,
    Ints,
    Measured,
    as_share,
    clustered_mean,
    clustered_share,
    mean_over_parts,
)
from pocketlm.units import BITS_PER_NAT

RESAMPLES = 1000
CELL = "cell."
"""Prefix of the cells of the confusion table among sums."""
NEAR = 1e-4
"""Normalised scores closer than this are a near tie: float32 and another batch can turn it."""


def by_bytes(columns: Columns) -> Floats:
    """Nats per UTF-8 byte: the same measure in every script and vocabulary."""
    return columns.bytes_F.astype(np.float64)


def by_characters(columns: Columns) -> Floats:
    """Nats per character: what lm-eval calls acc_norm."""
    return columns.characters_F.astype(np.float64)


def by_nothing(columns: Columns) -> Floats:
    """Summed nats as they are: favours short answers; lm-eval's acc."""
    return np.ones(columns.nats_F.size)


NORMALISERS: dict[str, Method[Callable[[Columns], Floats]]] = {
    "bytes": Method(by_bytes, paper="Gao et al. 2020, The Pile, section 3.1 (bits per byte)"),
    "characters": Method(by_characters, paper="Gao et al., lm-evaluation-harness: acc_norm"),
    "none": Method(by_nothing, paper="Brown et al. 2020, arXiv 2005.14165, section 2.4"),
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What each item came to under one normaliser, [N] each."""

    chosen_N: Ints
    hit_N: Floats
    probability_N: Floats
    near_N: Ints


@dataclass(frozen=True, kw_only=True)
class Part:
    """Accuracy of one subject or set of a task."""

    name: str
    num_items: int
    score: Measured
    chance: float
    majority: float


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One task of one model. None: it does not apply (choices are not written, and the reverse)."""

    task: str
    group: str
    in_paper: bool
    form: str
    shots: int
    num_items: int
    num_clusters: int
    """Independent pieces: passages where questions share them, else items."""
    score: Measured
    """Accuracy, or ROUGE-1 F of written answers: what the paper's table shows."""
    by_part: Measured
    """Its mean over parts."""
    chance: float
    """Score of guessing; 0 for written answers."""
    majority: float
    """Score of always taking the place that is right most often; guessing where the model sees no
    places (`continuation`); 0 for written answers."""
    corrected: Measured | None
    probability: Measured | None
    bits_per_byte: Measured
    mcc: Measured | None
    rouge: Mapping[str, Measured] | None
    near_ties: int
    contexts_cut: int
    """Items whose context lost its beginning."""
    seams: int
    """Choices that would swallow the end of the context."""
    parts: tuple[Part, ...]

    @property
    def in_table(self) -> Measured:
        """The number in the paper's table: examinations are means over subjects, others pooled."""
        return self.by_part if self.group == "Examination" else self.score


def answers(columns: Columns, normaliser: str) -> Answers:
    """Choice, hit and probability of every item. Raises `RecipeError` for an unknown normaliser.

    Probability and choice hold for items with choices; a written one counts as right with p = 1.
    """
    length_F = pick(NORMALISERS, normaliser, "normaliser")(columns)
    score_F, starts_N, counts_N = columns.nats_F / length_F, columns.starts_N, columns.counts_N
    if not len(columns):
        raise StageError("evaluate: no item was scored")
    best_N = np.minimum.reduceat(score_F, starts_N)
    above_F = score_F - np.repeat(best_N, counts_N)
    place_F = np.arange(score_F.size) - np.repeat(starts_N, counts_N)
    chosen_N = np.minimum.reduceat(np.where(above_F == 0, place_F, score_F.size), starts_N)
    others_F = np.where(place_F == np.repeat(chosen_N, counts_N), np.inf, above_F)
    weight_F = np.exp(-above_F)
    return Answers(
        chosen_N=chosen_N,
        hit_N=(chosen_N == columns.gold_N).astype(np.float64),
        probability_N=weight_F[columns.gold_F] / np.add.reduceat(weight_F, starts_N),
        near_N=(np.minimum.reduceat(others_F, starts_N) < NEAR).astype(np.int64),
    )


def score_task(
    task: str,
    columns: Columns,
    origin: Origin,
    *,
    normaliser: str,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> TaskScore:
    """Everything about one task's records, intervals included.

    `columns` are the task's alone, in one form. Raises `StageError` for two forms.
    """
    if set(columns.form_N) != {origin.form}:
        raise StageError(f"{task}: its records are {set(columns.form_N)}, asked as {origin.form!r}")
    own, writes = answers(columns, normaliser), origin.form == "generation"
    cluster_N, clusters = codes(columns.cluster_N)
    part_N, parts = codes(columns.part_N)
    score_N = headline(columns, own)
    drawn = Resampled(summed(columns, own, origin), cluster_N, num_draws=resamples, rng=rng)
    rouge = {kind: drawn.measure(ratio(kind, "items")) for kind in KINDS} if writes else None
    score = rouge[KINDS[0]] if rouge else clustered_share(own.hit_N, cluster_N)
    corrected_N = (own.hit_N - 1 / columns.counts_N) / (1 - 1 / np.maximum(columns.counts_N, 2))
    return TaskScore(
        task=task,
        group=origin.group,
        in_paper=origin.in_paper,
        form=origin.form,
        shots=origin.shots,
        num_items=len(columns),
        num_clusters=len(clusters),
        score=score,
        by_part=score if len(parts) == 1 else as_share(mean_over_parts(score_N, part_N, cluster_N)),
        chance=_chance(columns),
        majority=_majority(columns),
        corrected=None if writes else clustered_mean(corrected_N, cluster_N),
        probability=None if writes else clustered_mean(own.probability_N, cluster_N),
        bits_per_byte=drawn.measure(ratio("bits", "bytes")),
        mcc=drawn.measure(mcc(CELL)) if origin.metric == "mcc" and not writes else None,
        rouge=rouge,
        near_ties=0 if writes else int(own.near_N.sum()),
        contexts_cut=int((columns.context_cut_N > 0).sum()),
        seams=int(columns.seam_N.sum()),
        parts=() if writes else _parts(columns, own.hit_N, part_N, parts, cluster_N),
    )


def headline(columns: Columns, own: Answers) -> Floats:
    """What a task's score is the mean of, [N]: hits, or ROUGE-1 where answers were written."""
    return np.where(columns.writes_N, columns.rouge_N3[:, 0], own.hit_N)


def summed(columns: Columns, own: Answers, origin: Origin, prefix: str = "") -> dict[str, Floats]:
    """What metrics take from a task's items, [N] each, names after `prefix`: bits and bytes of the
    right answer, then ROUGE and a one for written answers, or the cells of the confusion table."""
    bits_N = BITS_PER_NAT * columns.nats_F[columns.gold_F]
    sums = {"bits": bits_N, "bytes": columns.bytes_F[columns.gold_F].astype(np.float64)}
    if origin.form == "generation":
        sums |= dict(zip(KINDS, columns.rouge_N3.T, strict=True), items=np.ones(len(columns)))
    elif origin.metric == "mcc":
        sums |= cells(columns.gold_N, own.chosen_N, int(columns.counts_N.max()), CELL)
    return {f"{prefix}{name}": values_N for name, values_N in sums.items()}


def _parts(
    columns: Columns, hit_N: Floats, part_N: Ints, names: list[str], cluster_N: Ints
) -> tuple[Part, ...]:
    order_N = np.argsort(part_N, kind="stable")
    pieces = np.split(order_N, np.cumsum(np.bincount(part_N))[:-1])
    parts = []
    for name, own_N in zip(names, pieces, strict=True):
        own, score = columns.take(own_N), clustered_share(hit_N[own_N], cluster_N[own_N])
        parts.append(
            Part(
                name=name,
                num_items=len(own),
                score=score,
                chance=_chance(own),
                majority=_majority(own),
            )
        )
    return tuple(parts)


def _chance(columns: Columns) -> float:
    return 0.0 if columns.writes_N.any() else float((1 / columns.counts_N).mean())


def _majority(columns: Columns) -> float:
    """Whole texts that are compared have no place a model could see: there it is guessing."""
    if (columns.form_N == "continuation").all() or columns.writes_N.any():
        return _chance(columns)
    return float(np.bincount(columns.gold_N).max() / columns.gold_N.size)
