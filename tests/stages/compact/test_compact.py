"""The stage as a whole: what must hold of every compacted tokenizer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact import SELECTORS, Compacted, compact
from pocketlm.stages.compact.derive import read_vocabulary

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")

# ▁ stands for a blank inside SentencePiece, so it comes back as one: lossy at the source.
FOR_BPE = [name for name in SELECTORS if name != "unigram-loss"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)
REAL = [
    pytest.param("tokenizers/gpt2", marks=pytest.mark.slow),
    "tokenizers/slimpajama-bpe/slimpajama-6B-4096-BPE.model",
]


@pytest.fixture(scope="module")
def small_byte(byte_bpe, corpus) -> Compacted:
    return compact(byte_bpe, corpus, vocab_size=400)


@pytest.fixture(scope="module")
def small_sentencepiece(sentencepiece_bpe, corpus) -> Compacted:
    return compact(sentencepiece_bpe, corpus, vocab_size=450)


@given(text=TEXTS)
def test_any_text_survives_byte_bpe(small_byte: Compacted, text: str) -> None:
    child = small_byte.tokenizer
    assert child.decode(child.encode(text)) == text


@given(text=TEXTS)
def test_any_text_survives_sentencepiece(small_sentencepiece: Compacted, text: str) -> None:
    child = small_sentencepiece.tokenizer
    assert child.decode(child.encode(text)) == text


@pytest.mark.parametrize("select", FOR_BPE)
@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(128))),
        "e\u0301\u0323 \u200d \U0001f469\u200d\U0001f52c \U0010ffff \u05e9\u05dc\u05d5\u05dd",
        "\r\n \n\r\t\0",
        " " * 10_000,
        "龘" * 3_000,
        "</s><s><unk><|endoftext|><0x0A><eoh>",
    ],
    ids=["ascii", "unicode", "control", "blanks", "rare", "specials"],
)
def test_hard_texts_survive(tokenizer: Tokenizer, corpus, select: str, text: str) -> None:
    child = compact(tokenizer, corpus, vocab_size=420, select=select).tokenizer
    assert child.decode(child.encode(text)) == text


@given(text=TEXTS, vocab_size=st.sampled_from([300, 400, 500, 600, 700]))
@settings(max_examples=15)
def test_kept_pieces_keep_their_ids(byte_bpe, corpus, text: str, vocab_size: int) -> None:
    made = compact(byte_bpe, corpus, vocab_size=vocab_size)
    before, after = byte_bpe.encode(text), made.tokenizer.encode(text)
    if set(before) <= set(made.kept_V.tolist()):
        assert made.kept_V[after].tolist() == before


def test_documents_whose_pieces_are_kept_are_encoded_as_before(tokenizer, corpus) -> None:
    text = corpus.all_texts[3]
    made = compact(tokenizer, corpus, vocab_size=560, keep=[text])
    assert made.kept_V[made.tokenizer.encode(text)].tolist() == tokenizer.encode(text)


def test_sizes_are_nested(tokenizer: Tokenizer, corpus) -> None:
    kept = [set(compact(tokenizer, corpus, vocab_size=v).kept_V.tolist()) for v in (420, 520, 620)]
    assert kept[0] < kept[1] < kept[2]


def test_twice_is_once(tokenizer: Tokenizer, corpus) -> None:
    once = compact(tokenizer, corpus, vocab_size=450)
    twice = compact(once.tokenizer, corpus, vocab_size=450)
    assert twice.tokenizer.backend.to_str() == once.tokenizer.backend.to_str()
    assert twice.kept_V.tolist() == list(range(450))


def test_in_two_steps_is_in_one(byte_bpe: Tokenizer, corpus) -> None:
    half_way = compact(byte_bpe, corpus, vocab_size=550)
    stepped = compact(half_way.tokenizer, corpus, vocab_size=400)
    direct = compact(byte_bpe, corpus, vocab_size=400)
    shared = set(half_way.kept_V[stepped.kept_V].tolist()) & set(direct.kept_V.tolist())
    # The corpus is counted again in between, so only close calls may differ.
    assert len(shared) >= 380


@pytest.mark.parametrize("vocab_size", [None, "all"])
def test_everything_kept_changes_nothing(tokenizer: Tokenizer, corpus, vocab_size) -> None:
    size = tokenizer.num_tokens if vocab_size else None
    made = compact(tokenizer, corpus, vocab_size=size)
    assert made.kept_V.tolist() == list(range(tokenizer.num_tokens))
    assert made.tokenizer.backend.to_str() == tokenizer.backend.to_str()
    assert made.coverage == 1.0
    assert made.tokens_per_byte == made.parent_tokens_per_byte


def test_usage_is_closed_and_frequency_is_not(byte_bpe: Tokenizer, corpus) -> None:
    left_P = (vocabulary := read_vocabulary(byte_bpe)).left_P
    orphans = {}
    for select in FOR_BPE:
        kept = set(compact(byte_bpe, corpus, vocab_size=400, select=select).kept_V.tolist())
        orphans[select] = [
            i for i in kept if left_P[i] >= 0 and not vocabulary.ancestors([i]) <= kept
        ]
    assert not orphans["usage"]
    assert orphans["frequency"]


def test_usage_gives_shorter_text_than_frequency(tokenizer: Tokenizer, corpus) -> None:
    made = {s: compact(tokenizer, corpus, vocab_size=450, select=s) for s in FOR_BPE}
    assert made["usage"].tokens_per_byte < made["frequency"].tokens_per_byte
    assert made["usage"].coverage <= made["frequency"].coverage


def test_result_describes_itself(tokenizer: Tokenizer, corpus) -> None:
    made = compact(tokenizer, corpus, vocab_size=480, keep=["governed"])
    assert len(made.provenance) == made.kept_V.size == made.tokenizer.num_tokens == 480
    reasons = dict(zip(made.kept_V.tolist(), made.provenance, strict=True))
    assert all(reasons[i] in ("keep", "byte", "ancestor") for i in tokenizer.encode("governed"))
    assert list(made.provenance).count("byte") == 256
    train = [i for text in corpus.texts("train") for i in tokenizer.encode(text)]
    assert made.counts_P.tolist() == np.bincount(train, minlength=tokenizer.num_tokens).tolist()
    assert made.coverage == pytest.approx(np.isin(train, made.kept_V).mean())
    held_out = list(corpus.texts("held-out"))
    num_tokens = sum(len(made.tokenizer.encode(text)) for text in held_out)
    assert made.tokens_per_byte == num_tokens / sum(len(text.encode()) for text in held_out)


def test_kept_words_stay_whole(byte_bpe: Tokenizer, corpus) -> None:
    before = byte_bpe.encode(" License")
    made = compact(byte_bpe, corpus, vocab_size=300, keep=[" License"])
    assert made.kept_V[made.tokenizer.encode(" License")].tolist() == before


def test_more_tokens_than_there_are_keep_all(byte_bpe: Tokenizer, corpus) -> None:
    made = compact(byte_bpe, corpus, vocab_size=701)
    assert made.kept_V.size == 700
    assert "not below" in made.size_reason


def test_too_few_tokens(byte_bpe: Tokenizer, corpus) -> None:
    with pytest.raises(RecipeError, match=r"257 tokens must stay .* Choose 257 or more"):
        compact(byte_bpe, corpus, vocab_size=256)
    assert compact(byte_bpe, corpus, vocab_size=257).kept_V.size == 257


def test_unknown_selector(byte_bpe: Tokenizer, corpus) -> None:
    with pytest.raises(RecipeError, match="did you mean 'usage'"):
        compact(byte_bpe, corpus, vocab_size=None, select="usages")


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(shared_data: Path, corpus, name: str) -> None:
    parent = load_tokenizer(shared_data / name)
    made = compact(parent, corpus, vocab_size=1500)
    texts = [*corpus.all_texts[:20], "naïve café ☕ 東京 Ω"]
    for text, ids in zip(texts, made.tokenizer.encode_batch(texts), strict=True):
        assert made.tokenizer.decode(ids) == parent.decode(parent.encode(text))


def test_a_source_without_bytes_keeps_its_characters(shared_data: Path, corpus) -> None:
    """tinystories-656k says byte_fallback but has no byte pieces, and its pieces span words."""
    parent = load_tokenizer(shared_data / "models/tinystories-656k")
    made = compact(parent, corpus, vocab_size=500)
    letters = {piece for piece in parent.backend.get_vocab() if len(piece) == 1}
    assert letters <= set(made.tokenizer.backend.get_vocab())
    assert made.tokenizer.roles == parent.roles
    assert made.tokenizer.prefix_id == 1
    text = "Once upon a time, there was a dog named Max."
    assert made.tokenizer.decode(made.tokenizer.encode(text)) == text
