"""Documents, and the one split that every recipe obeys.

A document's split is decided by the sha256 of its text alone, after texts over 64 kB are cut: 2 %
held out, 2 % for choosing (sizes, ridge terms), the rest for training. So a parent's recipe and a
child's agree on what was never trained on, whatever files, order or machine they use.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pocketlm.corpus.files import TextFile, find_files, read_texts
from pocketlm.errors import CorpusError

Split = Literal["train", "choose", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "choose", "held-out")

HELD_OUT_SHARE = 0.02
CHOOSE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Document:
    """One text of at most 64 kB and the entry of `corpus.files` it came from."""

    text: str
    source: str


@dataclass(frozen=True)
class Survey:
    """What one pass over the corpus found: documents and UTF-8 bytes per split, bad lines."""

    num_documents: Mapping[Split, int]
    num_bytes: Mapping[Split, int]
    num_bad_lines: int
    train_limit: int
    """Training documents whose rank is at or above this are left out (`corpus.max_bytes`)."""
    train_bytes: Mapping[str, int]
    """UTF-8 bytes of the training split by source, in the order of the sources."""


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, streamed from disk each time they are asked for."""

    files: tuple[TextFile, ...]
    text_field: str = "text"
    max_bytes: int | None = None

    def documents(
        self, split: Split, files: Sequence[TextFile] | None = None
    ) -> Iterator[Document]:
        """Documents of one split, of the training split no more than `max_bytes`; of some of the
        corpus's `files` only, where they are given."""
        limit = self.survey.train_limit
        for document in self._all(files):
            if document is not None:
                where, rank = split_of(document.text)
                if where == split and (split != "train" or rank < limit):
                    yield document

    def texts(self, split: Split) -> Iterator[str]:
        """Texts of one split, in the same order."""
        return (document.text for document in self.documents(split))

    def sample(self, split: Split, *, max_bytes: int) -> list[Document]:
        """Documents of lowest hash up to `max_bytes` of UTF-8, at least one: the same for all."""
        ranked = sorted(self.documents(split), key=lambda document: split_of(document.text)[1])
        total = 0
        for number, document in enumerate(ranked):
            total += len(document.text.encode())
            if number and total > max_bytes:
                return ranked[:number]
        return ranked

    @cached_property
    def survey(self) -> Survey:
        """Count everything once; raises `CorpusError` for an empty corpus or too many bad lines."""
        num_bad_lines = 0
        num_documents: Counter[Split] = Counter()
        num_bytes: Counter[Split] = Counter()
        train: list[tuple[int, int, str]] = []
        for document in self._all():
            if document is None:
                num_bad_lines += 1
                continue
            where, rank = split_of(document.text)
            size = len(document.text.encode())
            num_documents[where] += 1
            num_bytes[where] += size
            if where == "train":
                train.append((rank, size, document.source))
        for split in SPLITS:
            if not num_documents[split]:
                raise CorpusError(
                    f"[corpus] files: {sum(num_documents.values())} documents, none of them falls "
                    f"into the {split} split (2 % held out, 2 % for choosing); give more text"
                )
        limit, kept_bytes, kept = _rank_limit(train, self.max_bytes)
        num_bytes["train"], num_documents["train"] = kept_bytes, kept
        by_source = dict.fromkeys((file.source for file in self.files), 0)
        for rank, size, source in train:
            by_source[source] += size if rank < limit else 0
        return Survey(num_documents, num_bytes, num_bad_lines, limit, by_source)

    def _all(self, files: Sequence[TextFile] | None = None) -> Iterator[Document | None]:
        """Every document; None for each line that holds none."""
        for file in self.files if files is None else files:
            for text in read_texts(file, self.text_field):
                if text is None:
                    yield None
                    continue
                for piece in cut_text(text, file.max_document_bytes):
                    yield Document(piece, file.source)


def load_corpus(
    files: Sequence[str], *, text_field: str = "text", max_bytes: int | None = None
) -> Corpus:
    """Open the corpus behind `files` (globs, or `stdlib`); raises `CorpusError`.

    `max_bytes` limits the training text: documents of lowest hash stay, so a smaller limit takes a
    subset of a larger one and every source keeps its share.
    """
    return Corpus(find_files(files), text_field, max_bytes)


def split_of(text: str) -> tuple[Split, int]:
    """The split of a document and its rank in [0, 2^64), two words of the text's sha256."""
    digest = hashlib.sha256(text.encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    rank = int.from_bytes(digest[8:16])
    if share < HELD_OUT_SHARE:
        return "held-out", rank
    if share < HELD_OUT_SHARE + CHOOSE_SHARE:
        return "choose", rank
    return "train", rank


def cut_text(text: str, max_bytes: int) -> Iterator[str]:
    """Cut a text into pieces of at most `max_bytes` of UTF-8, after a line end if there is one."""
    raw = text.encode()
    start = 0
    while len(raw) - start > max_bytes:
        end = start + max_bytes
        line_end = raw.rfind(b"\n", start, end) + 1
        if line_end > start:
            end = line_end
        while raw[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield raw[start:end].decode()
        start = end
    if raw[start:].strip():
        yield raw[start:].decode()


def _rank_limit(train: list[tuple[int, int, str]], max_bytes: int | None) -> tuple[int, int, int]:
    """Rank limit, bytes and documents of the lowest-ranked texts that fit into `max_bytes`."""
    total = 0
    for count, (rank, size, _) in enumerate(sorted(train)):
        if max_bytes is not None and total + size > max_bytes:
            if not count:
                raise CorpusError(
                    f"[corpus] max_bytes = {max_bytes}: not even one document of {size} bytes fits"
                )
            return rank, total, count
        total += size
    return 2**64, total, len(train)
