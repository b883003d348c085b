"""The split: a function of the text alone, the same for parent and child, and never trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.documents import Corpus, cut_text, load_corpus, split_of
from pocketlm.corpus.shards import open_tokens, tokenise, write_shards
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import CorpusError

Write = Callable[[str, list[str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_jsonl(name: str, texts: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    return write_jsonl


def corpus_of(path: Path, max_bytes: int | None = None) -> Corpus:
    return load_corpus([str(path)], max_bytes=max_bytes)


TEXTS = [f"Document number {n} says {n * n} and a few words more." for n in range(1500)]


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(), st.integers(4, 50))
def test_pieces_join_to_the_text_and_are_small(text: str, limit: int) -> None:
    pieces = list(cut_text(text, limit))
    assert all(len(piece.encode()) <= limit for piece in pieces)
    joined = "".join(pieces)
    assert text.startswith(joined)
    assert not text[len(joined) :].strip()


def test_cuts_fall_after_line_ends() -> None:
    assert list(cut_text("ab\ncd\nef\n", 7)) == ["ab\ncd\n", "ef\n"]


def test_split_does_not_depend_on_file_order_or_company(write: Write) -> None:
    held_out = set(corpus_of(write("a.jsonl", TEXTS)).texts("held-out"))
    again = set(corpus_of(write("b.jsonl", TEXTS[::-1][:1200])).texts("held-out"))
    assert again == held_out & set(TEXTS[::-1][:1200])
    assert 10 < len(held_out) < 60  # 2 % of 1,500


def test_splits_are_disjoint_and_whole(write: Write) -> None:
    corpus = corpus_of(write("a.jsonl", TEXTS))
    parts = [list(corpus.texts(split)) for split in ("train", "choose", "held-out")]
    assert sorted(text for part in parts for text in part) == sorted(TEXTS)


def test_no_training_block_touches_the_held_out_text(
    write: Write, tiny_parent: Path, tmp_path: Path
) -> None:
    """For parent and child alike: every document behind every block is a training document."""
    corpus = corpus_of(write("a.jsonl", TEXTS))
    tokenizer = load_tokenizer(tiny_parent)
    write_shards(corpus, tokenizer, tmp_path)
    row = open_tokens(tmp_path, "train")
    ids = row.windows(np.array([0]), len(row))[0]
    ends = np.fromfile(tmp_path / "train" / "00000.ds.index", np.uint64)
    starts = [0, *ends[:-1].tolist()]
    documents = [
        tokenizer.decode(ids[a:b].tolist()) for a, b in zip(starts, ends.tolist(), strict=True)
    ]
    assert [split_of(text)[0] for text in documents] == ["train"] * len(documents)
    assert set(documents) == set(corpus.texts("train"))
    blocks = Blocks(row, 32)
    seen = blocks.batch(np.arange(len(blocks)))
    assert (seen[:, :-1].ravel() == ids[: seen[:, :-1].size]).all()
    held_out = tokenizer.encode(next(corpus.texts("held-out")))
    assert str(held_out)[1:-1] not in str(ids.tolist())


def test_max_bytes_is_kept_and_nested(write: Write) -> None:
    path = write("a.jsonl", TEXTS)
    small, large = corpus_of(path, 5_000), corpus_of(path, 20_000)
    kept_small, kept_large = set(small.texts("train")), set(large.texts("train"))
    assert (
        sum(len(text.encode()) for text in kept_small) == small.survey.num_bytes["train"] <= 5_000
    )
    assert kept_small < kept_large
    assert list(small.texts("held-out")) == list(large.texts("held-out"))


def test_a_sample_is_the_lowest_ranked(write: Write) -> None:
    corpus = corpus_of(write("a.jsonl", TEXTS))
    few = corpus.sample("held-out", max_bytes=300)
    more = corpus.sample("held-out", max_bytes=600)
    assert few == more[: len(few)]
    assert len(corpus.sample("held-out", max_bytes=1)) == 1


def test_empty_and_too_small_corpora_are_refused(write: Write) -> None:
    for name, texts in (("a.jsonl", []), ("b.jsonl", ["one"])):
        with pytest.raises(CorpusError, match="none of them falls"):
            corpus_of(write(name, texts)).survey  # noqa: B018  (reading it raises)
    with pytest.raises(CorpusError, match="not even one document"):
        corpus_of(write("c.jsonl", TEXTS), 3).survey  # noqa: B018  (reading it raises)


def test_bytes_per_token_is_measured(write: Write, tiny_parent: Path) -> None:
    corpus = corpus_of(write("a.jsonl", TEXTS))
    blocks = tokenise(corpus, load_tokenizer(tiny_parent), seq_len=16)
    assert blocks.bytes_per_token * len(blocks.tokens) == pytest.approx(
        corpus.survey.num_bytes["train"]
    )
