"""Tokenised text on disk, in datatrove's layout, many parts a split.

SPLIT/00000.ds            ids of all documents in order, uint16 (uint32 above 65,536 tokens)
SPLIT/00000.ds.index      uint64, for each document the number of ids up to its end
SPLIT/00000.ds.bytes      uint32, UTF-8 bytes of each document, so that budgets in bytes stay exact
SPLIT/00000.ds.metadata   tokenizer and bytes of an id, number of ids
parts.json                every part: source, documents, ids, bytes, sha256 of its files

A part holds documents of one source, about PART_BYTES of text; nothing on disk depends on the
number of processes. A part that was finished before a kill is not made again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pocketlm.artifact import key_of, sha256_of, write_atomically
from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.documents import Corpus, Document, Split
from pocketlm.corpus.encoding import Encoded, Job, encode_jobs, num_workers
from pocketlm.corpus.row import Part, TokenRow
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import DamagedArtifact
from pocketlm.progress import SILENT, Progress
from pocketlm.units import show_count

PART_BYTES = 256_000_000  # of text; a kill costs no more than the part that was being written
_JOB_BYTES = 1_000_000
TOKENISED: tuple[Split, ...] = ("train", "choose")  # held-out text is scored as text
PARTS = "parts.json"
_SUFFIXES = (".ds", ".ds.index", ".ds.bytes", ".ds.metadata")

Record = dict[str, Any]
"""What `parts.json` says about one part."""


def write_shards(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    workers: int | None = None,
    resume: Path | None = None,
    progress: Progress = SILENT,
) -> None:
    """Tokenise the training and choosing splits of `corpus` into `folder`.

    `workers`: processes; by default the cores, one for little text. `resume` keeps finished parts
    between calls of the same corpus and tokenizer. Raises `CorpusError`, and `StageError` if a
    process dies.
    """
    work = (resume or folder) / f"parts-of-{PART_BYTES}"
    for split in TOKENISED:
        (work / split).mkdir(parents=True, exist_ok=True)
    total = sum(corpus.survey.num_bytes[split] for split in TOKENISED)
    finished = _finished_parts(work)
    token_bytes = 2 if tokenizer.num_tokens <= 2**16 else 4
    about = {"tokenizer": tokenizer_key(tokenizer), "token_bytes": token_bytes}
    with progress.task("tokenise", total, "B") as advance:
        jobs = _jobs(corpus, finished, advance)
        encoded = encode_jobs(jobs, tokenizer, workers=num_workers(workers, total))
        for name, pieces in groupby(encoded, key=lambda piece: piece.part):
            finished[name] = _write_part(work / name, pieces, about, advance)
    parts = {name: finished[name] for split in TOKENISED for name in sorted(finished)
             if name.startswith(f"{split}/")}  # fmt: skip
    for name in parts:
        (folder / name).parent.mkdir(exist_ok=True)
        for suffix in _SUFFIXES:
            os.replace(work / f"{name}{suffix}", folder / f"{name}{suffix}")
    text = json.dumps(about | {"vocab_size": tokenizer.num_tokens, "parts": parts}, indent=1)
    write_atomically(folder / PARTS, text + "\n")
    shutil.rmtree(work)


def tokenise(corpus: Corpus, tokenizer: Tokenizer, *, seq_len: int = 256) -> Blocks:
    """The training text of `corpus` as blocks of `seq_len` tokens, in memory."""
    with TemporaryDirectory() as folder:
        write_shards(corpus, tokenizer, Path(folder), workers=1)
        row = open_tokens(Path(folder), "train", in_memory=True)
    return Blocks(row, seq_len, row.num_bytes / len(row))


def open_tokens(folder: Path, split: Split, *, in_memory: bool = False) -> TokenRow:
    """The row of one split; parts are mapped as they are read, or all read now.

    Raises `DamagedArtifact` for a part whose length is not what `parts.json` says.
    """
    parts = _records(folder, split)
    paths = [folder / f"{name}.ds" for name in parts]
    for path, record in zip(paths, parts.values(), strict=True):
        size = path.stat().st_size if path.is_file() else 0
        if size != record["tokens"] * record["token_bytes"]:
            raise DamagedArtifact(f"{path}: {size} bytes, {PARTS} tells of {record['tokens']} ids")
    sizes = [record["token_bytes"] for record in parts.values()]
    held = [_open_part(p, size, np.fromfile) for p, size in zip(paths, sizes, strict=True)
            if in_memory]  # fmt: skip

    def open_part(number: int) -> Part:
        return held[number] if held else _open_part(paths[number], sizes[number], _mapped)

    return TokenRow(
        open_part,
        tokens_P=[record["tokens"] for record in parts.values()],
        bytes_P=[record["bytes"] for record in parts.values()],
        sources_P=[record["source"] for record in parts.values()],
    )


def check_tokens(
    folder: Path, *, share: tuple[int, int] = (0, 1), progress: Progress = SILENT
) -> None:
    """Read every file again and compare it with `parts.json`: a disk may change a bit and leave
    size and time as they were. `share`: (r, n) checks every n-th part from the r-th on.

    Raises `DamagedArtifact` with the name of the first that differs. Folders older than parts.json
    have no sums and pass.
    """
    if not (folder / PARTS).is_file():
        return
    records = {n: r for split in TOKENISED for n, r in _records(folder, split).items()}
    mine = dict(list(records.items())[share[0] :: share[1]])
    total = sum(record["tokens"] * record["token_bytes"] for record in mine.values())
    with progress.task("check tokens", total, "B") as advance:
        for name, record in mine.items():
            for suffix, expected in record["sha256"].items():
                path = folder / f"{name}{suffix}"
                if not path.is_file() or sha256_of(path) != expected:
                    raise DamagedArtifact(
                        f"{path}: differs from its sum in {PARTS}; make the tokens again "
                        "(--redo tokens)"
                    )
            advance(record["tokens"] * record["token_bytes"])


def tokenizer_key(tokenizer: Tokenizer) -> str:
    """16 hex digits for what decides the ids of a document: all but names and templates."""
    frame = [tokenizer.prefix_id, tokenizer.suffix_id]
    return key_of({"tokenizer": tokenizer.backend.to_str(), "frame": frame})


def _records(folder: Path, split: Split) -> dict[str, Record]:
    """Part -> its record, in order; also of folders older than parts.json, one part without a
    source."""
    path = folder / PARTS
    if not path.is_file():
        ends_D = np.fromfile(folder / f"{split}.ds.index", np.uint64)
        tokens, size = int(ends_D[-1]), (folder / f"{split}.ds").stat().st_size
        num_bytes = int(np.fromfile(folder / f"{split}.ds.bytes", np.uint32).sum(dtype=np.int64))
        return {split: {"tokens": tokens, "bytes": num_bytes, "source": "",
                        "token_bytes": size // max(1, tokens)}}  # fmt: skip
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        width = {"token_bytes": about["token_bytes"]}
        return {n: r | width for n, r in about["parts"].items() if n.startswith(f"{split}/")}
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtifact(f"{path}: cannot be read ({error!r})") from None


def _open_part(path: Path, token_bytes: int, read: Callable[..., Any]) -> Part:
    return Part(
        ids_T=read(path, np.uint16 if token_bytes == 2 else np.uint32),
        ends_D=read(path.with_suffix(".ds.index"), np.uint64),
        bytes_D=read(path.with_suffix(".ds.bytes"), np.uint32),
    )


def _mapped(path: Path, dtype: Any) -> Any:
    return np.memmap(path, dtype, mode="r").view(np.ndarray)  # slices of a plain array are faster


def _jobs(
    corpus: Corpus, finished: dict[str, Record], advance: Callable[[float], None]
) -> Iterator[Job]:
    """The documents of every part that is not finished, a megabyte or so at a time."""
    for split in TOKENISED:
        parts = groupby(_numbered(corpus.documents(split)), key=lambda document: document[0])
        for number, documents in parts:
            name = f"{split}/{number:05d}"
            if name in finished:
                advance(sum(size for _, _, size in documents))
                continue
            yield from _batched(name, documents)


def _batched(part: str, documents: Iterator[tuple[int, Document, int]]) -> Iterator[Job]:
    texts: list[str] = []
    held = 0
    for _, document, size in documents:
        texts.append(document.text)
        held += size
        if held >= _JOB_BYTES:
            yield Job(part, document.source, texts)
            texts, held = [], 0
    if texts:
        yield Job(part, document.source, texts)


def _numbered(documents: Iterator[Document]) -> Iterator[tuple[int, Document, int]]:
    """Number of its part, document, UTF-8 bytes. A part ends when it is full or its source does."""
    number, held, source = 0, 0, None
    for document in documents:
        size = len(document.text.encode())
        if source is not None and (document.source != source or held >= PART_BYTES):
            number, held = number + 1, 0
        source, held = document.source, held + size
        yield number, document, size


def _write_part(
    path: Path, pieces: Iterator[Encoded], about: Record, advance: Callable[[float], None]
) -> Record:
    """Write one part and, last of all, the record that says it is whole."""
    lengths, sizes, source = [], [], ""
    digest = sha256()
    with path.with_suffix(".ds").open("wb") as file:
        for piece in pieces:
            ids = piece.ids_T.tobytes()
            file.write(ids)
            digest.update(ids)
            lengths.append(piece.lengths_D)
            sizes.append(piece.bytes_D)
            source = piece.source
            advance(int(piece.bytes_D.sum(dtype=np.int64)))
    ends_D, bytes_D = np.cumsum(np.concatenate(lengths)), np.concatenate(sizes)
    num_tokens = int(ends_D[-1])
    beside = {
        ".ds.index": ends_D.astype(np.uint64).tobytes(),
        ".ds.bytes": bytes_D.tobytes(),
        ".ds.metadata": f"{about['tokenizer']}|{about['token_bytes']}\n{num_tokens}\n"
        f"{show_count(float(num_tokens))}T".encode(),
    }
    for suffix, content in beside.items():
        path.with_suffix(suffix).write_bytes(content)
    record = {
        "source": source,
        "documents": len(bytes_D),
        "tokens": num_tokens,
        "bytes": int(bytes_D.sum(dtype=np.int64)),
        "sha256": {".ds": digest.hexdigest()}
        | {suffix: sha256(content).hexdigest() for suffix, content in beside.items()},
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record))
    return record


def _finished_parts(work: Path) -> dict[str, Record]:
    """Part -> record of every part in `work` whose files are all as they were written."""
    found: dict[str, Record] = {}
    for split in TOKENISED:
        for path in sorted((work / split).glob("*.json")):
            with suppress(OSError, ValueError, KeyError):  # damaged: it is made again
                record = json.loads(path.read_text(encoding="utf-8"))
                hashes = {s: sha256_of(path.with_suffix(s)) for s in _SUFFIXES}
                if hashes == record["sha256"]:
                    found[f"{split}/{path.stem}"] = record
    return found
