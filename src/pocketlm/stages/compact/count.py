"""Count tokens: every text of a corpus once, each source apart, in bounded memory.

Work is cut into chunks of text; a chunk's distinct segments are encoded once (`encoders`). Chunks
go to processes, finished shards of files are kept for the next start. The result does not depend
on any of that. Shapes: P ids of the tokenizer, S sources, G groups of documents.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact.encoders import BATCH_CHARACTERS, ENCODERS, batch_counter, batches

IntArray = npt.NDArray[np.int64]
NUM_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one pass saw."""

    counts_SP: IntArray
    """Final pieces by source and id."""
    num_bytes_S: IntArray
    """UTF-8 bytes of the texts counted."""
    sources: tuple[str, ...]
    num_documents: int
    counts_GP: IntArray | None = None
    """The same by groups of documents, where only a sample was counted."""
    sampled_share: float = 1.0
    """Share of the text that was counted, 0..1."""
    encoder: str = "batch"
    """The back end: a name of ENCODERS."""

    @property
    def counts_P(self) -> IntArray:
        """Final pieces by id."""
        total: IntArray = self.counts_SP.sum(axis=0)
        return total

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the texts."""
        return int(self.num_bytes_S.sum())

    @property
    def num_tokens(self) -> int:
        """Length of the texts in tokens."""
        return int(self.counts_SP.sum())

    @property
    def tokens_per_byte(self) -> float:
        """Length of a byte in tokens; lower is shorter sequences."""
        return self.num_tokens / self.num_bytes

    def weighted(self, weights: Mapping[str, float]) -> "Counts":
        """The same counts with sources weighed anew, rounded; the others keep weight 1.

        Groups are left as they are. Raises `RecipeError` for a source that is not there.
        """
        unknown = sorted(set(weights) - set(self.sources))
        if unknown:
            raise RecipeError(
                f"[compact] weights: no source {unknown[0]!r}; there are {', '.join(self.sources)}"
            )
        weight_S = np.array([weights.get(source, 1.0) for source in self.sources])
        return replace(
            self,
            counts_SP=np.rint(self.counts_SP * weight_S[:, None]).astype(np.int64),
            num_bytes_S=np.rint(self.num_bytes_S * weight_S).astype(np.int64),
        )

    def coverage_interval(
        self, kept_V: IntArray, *, confidence: float = 0.95
    ) -> tuple[float, float] | None:
        """Interval of the share of tokens that `kept_V` covers; None if everything was counted.

        Jackknife over groups of documents, with Student's t (Efron and Stein 1981).
        """
        if self.counts_GP is None:
            return None
        from scipy import stats

        covered_G = self.counts_GP[:, kept_V].sum(axis=1).astype(np.float64)
        total_G = self.counts_GP.sum(axis=1).astype(np.float64)
        used = total_G > 0
        covered_G, total_G, size = covered_G[used], total_G[used], int(used.sum())
        share = covered_G.sum() / total_G.sum()
        if size < 2:
            return 0.0, 1.0
        left_out_G = (covered_G.sum() - covered_G) / (total_G.sum() - total_G)
        error = np.sqrt((size - 1) / size * np.square(left_out_G - left_out_G.mean()).sum())
        half = float(stats.t.ppf((1 + confidence) / 2, size - 1) * error)
        return max(0.0, float(share) - half), min(1.0, float(share) + half)

    def save(self, folder: Path) -> None:
        """Write counts.npz and counts.json into `folder`, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        groups = {} if self.counts_GP is None else {"counts_GP": self.counts_GP}
        np.savez_compressed(
            folder / "counts.npz",
            allow_pickle=False,
            counts_SP=self.counts_SP,
            num_bytes_S=self.num_bytes_S,
            **groups,
        )
        about = {
            "sources": self.sources,
            "num_documents": self.num_documents,
            "sampled_share": self.sampled_share,
            "encoder": self.encoder,
        }
        (folder / "counts.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Counts":
        """What `save` wrote."""
        about = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        about["sources"] = tuple(about["sources"])
        with np.load(folder / "counts.npz", allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files}, **about)


@dataclass(frozen=True, kw_only=True)
class How:
    """How to count; none of it changes the counts, except `sample_bytes`."""

    workers: int | None = None
    """Processes; None: as many as there are cores for us, one for little text."""
    sample_bytes: int | None = None
    """About how much text to count, by documents of lowest hash; None: all."""
    resume: Path | None = None
    """Folder for the counts of finished shards."""
    encoder: str = "auto"
    """A name of ENCODERS; `auto`: the fastest that is proven on a sample."""

    def __post_init__(self) -> None:
        """Refuse a name that is not there."""
        if self.encoder != "auto" and self.encoder not in ENCODERS:
            raise RecipeError(f"encoder = {self.encoder!r}; there are auto, {', '.join(ENCODERS)}")

    def num_workers(self, num_bytes: int) -> int:
        """Processes for so much text."""
        if self.workers is not None:
            return max(1, self.workers)
        return 1 if num_bytes < 16_000_000 else len(os.sched_getaffinity(0))


def count_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> Counts:
    """Count texts by the reference, as one source; memory is bounded by one batch."""
    counter = batch_counter(tokenizer)
    assert counter is not None
    counts_P = np.zeros(tokenizer.num_tokens, dtype=np.int64)
    num_bytes = num_documents = 0
    for batch in batches(texts, BATCH_CHARACTERS):
        counts_P += counter(batch)
        num_bytes += sum(len(text.encode()) for text in batch)
        num_documents += len(batch)
    return Counts(
        counts_SP=counts_P[None],
        num_bytes_S=np.array([num_bytes]),
        sources=("text",),
        num_documents=num_documents,
    )
