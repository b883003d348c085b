"""Counting: every back end gives the reference's counts, whatever the chunks and processes."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact import counting as module
from pocketlm.stages.compact.count import Counts, How, count_texts
from pocketlm.stages.compact.counting import count_corpus
from pocketlm.stages.compact.encoders import ENCODERS, prove

FAST = [name for name in ENCODERS if name != "batch"]
ODD = [
    "", " ", "  two  blanks ", "a\r\n\r\n  b\n\n\nc \t\t x\u3000y\u00a0z", "don't DON'T we'LL ''s",
    "x\0y", "12 345 6789 ٣٤ ⅷ ²", "</s><eoh> <|endoftext|><unk>", "\u1c89\U000105c0 new letters",
    "中文，没有空格。ａｂｃ 한국어 ไทย e\u0301\u0323 👩‍🔬", "🙂" * 40, "龘" * 300,
    "\n" * 70 + "end",
    "!!!\n\n???\n x", " \n \n ", "tab\tend\t", "▁a ▁▁ b",
]  # fmt: skip


def plain(tokenizer: Tokenizer, texts: list[str]) -> Counter[int]:
    return Counter(i for ids in tokenizer.encode_batch(texts) for i in ids)


def assert_equal(tokenizer: Tokenizer, texts: list[str]) -> None:
    expected = plain(tokenizer, texts)
    for name, method in ENCODERS.items():
        counter = method.function(tokenizer)
        if counter is not None:
            counts_P = counter(texts)
            assert {i: n for i, n in enumerate(counts_P.tolist()) if n} == dict(expected), name


def test_odd_texts(tokenizer: Tokenizer, corpus) -> None:
    assert_equal(tokenizer, [*ODD, *corpus.all_texts[:5]])


@given(texts=st.lists(st.text(max_size=80), max_size=4))
@settings(max_examples=40)
def test_any_text(byte_bpe, sentencepiece_bpe, texts: list[str]) -> None:
    assert_equal(byte_bpe, texts)
    assert_equal(sentencepiece_bpe, texts)


def test_every_character(byte_bpe: Tokenizer, sentencepiece_bpe: Tokenizer) -> None:
    """Between letters, so that a character of another class shows."""
    points = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    texts = ["a".join(points[start : start + 500]) for start in range(0, 0x30000, 500)]
    assert_equal(byte_bpe, texts)
    assert_equal(sentencepiece_bpe, texts[:40])


@pytest.mark.parametrize(
    "name",
    ["gpt2/tokenizer.json", "qwen/qwen.tiktoken", "llama3/tokenizer.model",
     "internlm/tokenizer_internlm.model", "llama2/tokenizer.model", "t5-v1_1/spiece.model"],
)  # fmt: skip
def test_real_tokenizers(load_shared, corpus, name: str) -> None:
    tokenizer = load_shared(f"tokenizers/{name}")
    segments = ENCODERS["segments"].function(tokenizer)
    texts = [*ODD, *corpus.all_texts]
    if segments is not None:
        expected = plain(tokenizer, texts)
        assert {i: n for i, n in enumerate(segments(texts).tolist()) if n} == dict(expected)


def test_a_back_end_that_differs_is_not_taken(byte_bpe: Tokenizer, corpus, monkeypatch) -> None:
    wrong = type(ENCODERS["segments"])(
        lambda tokenizer: lambda texts: np.zeros(tokenizer.num_tokens, np.int64), paper=""
    )
    monkeypatch.setitem(ENCODERS, "segments", wrong)
    texts = list(corpus.all_texts)
    assert prove(byte_bpe, texts, among=tuple(ENCODERS)) == "batch"
    monkeypatch.undo()
    assert prove(byte_bpe, texts, among=tuple(ENCODERS)) == "segments"


@pytest.fixture(scope="module")
def files(corpus, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("texts")
    texts = [f"{text} {n}" for n in range(8) for text in corpus.all_texts]
    for name, some in {"a": texts[::2], "b": texts[1::2]}.items():
        lines = [json.dumps({"text": text}) for text in some]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return load_corpus([str(folder / "a.jsonl"), str(folder / "b.jsonl")])


@pytest.fixture(scope="module")
def expected(byte_bpe: Tokenizer, files) -> Counts:
    return count_texts(byte_bpe, files.texts("train"))


def same(found: Counts, expected: Counts) -> bool:
    return (
        np.array_equal(found.counts_P, expected.counts_P)
        and found.num_bytes == expected.num_bytes
        and found.num_documents == expected.num_documents
    )


def test_sources_are_counted_apart(byte_bpe: Tokenizer, files, expected: Counts) -> None:
    found = count_corpus(byte_bpe, files)
    assert same(found, expected)
    assert found.encoder == "segments"
    assert found.sources == ("a.jsonl", "b.jsonl")
    for number, source in enumerate(found.sources):
        texts = [d.text for d in files.documents("train") if d.source == source]
        assert found.counts_SP[number].sum() == sum(plain(byte_bpe, texts).values())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_chunks_change_nothing(
    byte_bpe: Tokenizer, files, expected: Counts, encoder: str, monkeypatch
) -> None:
    if ENCODERS[encoder].function(byte_bpe) is None:
        pytest.skip("not for this tokenizer")
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 3000)
    assert same(count_corpus(byte_bpe, files, how=How(encoder=encoder)), expected)


def test_processes_change_nothing(
    byte_bpe: Tokenizer, files, expected: Counts, monkeypatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 100_000)
    assert same(count_corpus(byte_bpe, files, how=How(workers=2)), expected)


def test_finished_shards_are_not_counted_again(
    byte_bpe: Tokenizer, files, expected: Counts, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    how = How(resume=tmp_path)
    assert same(count_corpus(byte_bpe, files, how=how), expected)
    _, second = sorted(tmp_path.glob("*.npz"))
    second.write_bytes(second.read_bytes()[:100])  # as a kill leaves what was not renamed
    read = []
    documents = type(files).documents

    def watched(self, split, some=None):
        read.extend([] if some is None else [file.path.name for file in some])
        return documents(self, split, some)

    monkeypatch.setattr(type(files), "documents", watched)
    assert same(count_corpus(byte_bpe, files, how=how), expected)
    assert read == ["b.jsonl"]


def test_sources_can_be_weighed_without_counting(byte_bpe: Tokenizer, files) -> None:
    found = count_corpus(byte_bpe, files)
    heavy = found.weighted({"a.jsonl": 3, "b.jsonl": 0})
    assert np.array_equal(heavy.counts_P, 3 * found.counts_SP[0])
    assert heavy.tokens_per_byte == pytest.approx(found.counts_SP[0].sum() / found.num_bytes_S[0])
    with pytest.raises(RecipeError, match=r"no source 'c'; there are a\.jsonl, b\.jsonl"):
        found.weighted({"c": 1})


def test_counts_come_back_from_disk(byte_bpe: Tokenizer, files, tmp_path: Path) -> None:
    found = count_corpus(byte_bpe, files, how=How(sample_bytes=20_000))
    found.save(tmp_path / "counts")
    again = Counts.load(tmp_path / "counts")
    assert np.array_equal(again.counts_SP, found.counts_SP)
    assert np.array_equal(again.counts_GP, found.counts_GP)
    assert again.sampled_share == found.sampled_share < 1


def test_a_sample_is_about_as_large_as_asked(byte_bpe: Tokenizer, files) -> None:
    whole = files.survey.num_bytes["train"]
    found = count_corpus(byte_bpe, files, how=How(sample_bytes=whole // 3))
    assert found.num_bytes == pytest.approx(whole / 3, rel=0.25)
    assert found.counts_GP.sum() == found.num_tokens


def test_intervals_of_samples_hold_the_truth() -> None:
    """95 of 100 should; documents are alike inside and differ among each other."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        share_G = rng.beta(8, 2, size=32)
        size_G = rng.integers(500, 1500, size=32)
        counts_GP = np.stack([rng.binomial(size_G, share_G), size_G], axis=1)
        counts_GP[:, 1] -= counts_GP[:, 0]
        counts = Counts(
            counts_SP=counts_GP.sum(axis=0)[None], num_bytes_S=np.array([1]), sources=("x",),
            num_documents=32, counts_GP=counts_GP,
        )  # fmt: skip
        low, high = counts.coverage_interval(np.array([0]))
        held += low <= 0.8 <= high
    assert 182 <= held <= 198


def test_an_unknown_back_end() -> None:
    with pytest.raises(RecipeError, match="there are auto, segments"):
        How(encoder="fast")
