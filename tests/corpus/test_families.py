"""Every family against the library that defines it; what is lost is said; saved files agree."""

import base64
import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pocketlm.corpus.document import byte_characters
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.stages.compact.fuzz import fuzz_texts

Ids = list[list[int]]
Encode = Callable[[list[str]], Ids]
Load = Callable[[str], Tokenizer]

# name -> (family, why it is not lossless)
SHARED = {
    "gpt2/tokenizer.json": ("byte-bpe", None),
    "gpt2/vocab.json": ("byte-bpe", None),
    "llama3/tokenizer.model": ("byte-bpe", None),
    "qwen/qwen.tiktoken": ("byte-bpe", None),
    "internlm/tokenizer_internlm.model": ("sentencepiece-bpe", "it reads ▁ as a blank"),
    "llama2/tokenizer.model": ("sentencepiece-bpe", "it reads ▁ as a blank"),
    "slimpajama-bpe/slimpajama-6B-4096-BPE.model": ("sentencepiece-bpe", "Precompiled changes"),
    "slimpajama-bpe/slimpajama-6B-32000-BPE.model": ("sentencepiece-bpe", "Precompiled changes"),
    "slimpajama-bpe/slimpajama-6B-128000-BPE.model": ("sentencepiece-bpe", "Precompiled changes"),
    "albert/spiece.model": ("unigram", "Precompiled changes text"),
    "t5-v1_1/spiece.model": ("unigram", "Precompiled changes text"),
    "bert-base-chinese/vocab.txt": ("wordpiece", "WordPiece drops blanks"),
    "bert-base-uncased/vocab.txt": ("wordpiece", "WordPiece drops blanks"),
}
# For each reason above a text that shows it.
WITNESSES = {"▁": "a▁b", "Precompiled": "ﬁ", "drops blanks": "a  b"}
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {  # as published: encoder.py of GPT-2, Llama 3's and Qwen's tokenizer
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": CL100K % "{1,3}",
    "qwen": CL100K % "",
}
REAL = {
    "en/c4_sample.jsonl.gz": 8,
    "en/stackexchange_sample.jsonl.gz": 8,
    "zh/iflytek_app_descriptions.jsonl.gz": 8,
    "zh/poems_tang_song.jsonl.gz": 15,
    "zh/zhwiki_traditional_drcd.jsonl.gz": 6,
}
ODD = [
    "",
    " ",
    "  a  b ",
    "a\r\n\n\tb",
    "don't DON'T",
    "１２ ﬁ Å e\u0301",
    "x\0y",
    "👩‍🔬" * 3,
    "龘",
]

JSON_FORM = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}

shared = pytest.mark.parametrize("name", SHARED)
# One of each size of a series is enough where files are written.
saved = pytest.mark.parametrize("name", [name for name in SHARED if "128000" not in name])


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """Lines people wrote, English and Chinese, and a few odd ones."""
    lines = list(ODD)
    for name, count in REAL.items():
        with gzip.open(shared_data / "text" / name, "rt", encoding="utf-8") as file:
            for document in islice(file, count):
                lines += json.loads(document)["text"][:1000].split("\n")
    return lines


@pytest.fixture
def tokenizer(load_shared: Load, name: str) -> Tokenizer:
    return load_shared(f"tokenizers/{name}")


@pytest.fixture
def small(load_small: Load, name: str) -> Tokenizer:
    return load_small(f"tokenizers/{name}")


def by_sentencepiece(path: Path) -> Encode:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def by_tiktoken(path: Path) -> Encode:
    """GPT-2's ids are its ranks, written in byte characters."""
    import tiktoken

    if path.suffix == ".json":
        table = json.loads(path.read_text(encoding="utf-8"))
        vocab = table if path.name == "vocab.json" else table["model"]["vocab"]
        byte_of = {character: byte for byte, character in byte_characters().items()}
        pieces = vocab.keys() - {"<|endoftext|>"}
        ranks = {bytes(byte_of[c] for c in piece): vocab[piece] for piece in pieces}
    else:
        lines = (line.split() for line in path.read_bytes().splitlines())
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    pattern = PATTERNS[path.parent.name]
    encoding = tiktoken.Encoding(
        "reference", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    return lambda texts: [encoding.encode_ordinary(text) for text in texts]


def by_transformers(path: Path) -> Encode:
    from transformers import BertTokenizerFast

    reference = BertTokenizerFast(vocab=str(path), do_lower_case=True)
    return lambda texts: reference(texts, add_special_tokens=False)["input_ids"]


REFERENCES = {"byte-bpe": by_tiktoken, "wordpiece": by_transformers}


@shared
def test_ids_are_those_of_the_reference(
    shared_data: Path, tokenizer: Tokenizer, texts: list[str], name: str
) -> None:
    family, _ = SHARED[name]
    reference = REFERENCES.get(family, by_sentencepiece)(shared_data / "tokenizers" / name)
    assert tokenizer.family == family
    assert tokenizer.encode_batch(texts) == reference(texts)


@shared
def test_what_is_lost_is_said(tokenizer: Tokenizer, texts: list[str], name: str) -> None:
    _, reason = SHARED[name]
    if reason is None:
        assert tokenizer.lossless is None
        hard = [*texts, *fuzz_texts(tokenizer, np.random.default_rng(0), 100)]
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(hard)] == hard
    else:
        assert reason in str(tokenizer.lossless)
        witness = next(text for word, text in WITNESSES.items() if word in reason)
        assert tokenizer.decode(tokenizer.encode(witness)) != witness


@pytest.mark.parametrize("lower", [True, False])
def test_a_config_says_whether_case_counts(
    shared_data: Path, tmp_path: Path, texts: list[str], lower: bool
) -> None:
    from transformers import AutoTokenizer, BertTokenizerFast

    source = shared_data / "tokenizers/bert-base-chinese/vocab.txt"
    (tmp_path / "vocab.txt").write_bytes(source.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    reference = BertTokenizerFast(vocab=str(source), do_lower_case=lower)
    expected = reference(texts, add_special_tokens=False)["input_ids"]
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode_batch(texts) == expected
    saved = tmp_path / "saved"
    tokenizer.save(saved)
    assert load_tokenizer(saved / "vocab.txt").encode_batch(texts) == expected
    theirs = AutoTokenizer.from_pretrained(saved)
    assert theirs(texts, add_special_tokens=False)["input_ids"] == expected


# --- what save writes ---


@saved
def test_transformers_and_twins_read_what_was_saved(
    tmp_path: Path, small: Tokenizer, texts: list[str], name: str
) -> None:
    from transformers import AutoTokenizer

    small.save(tmp_path)
    expected = small.encode_batch(texts)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(texts, add_special_tokens=False)["input_ids"] == expected
    assert theirs("a")["input_ids"] == small.backend.encode("a").ids
    assert (theirs.eos_token_id, theirs.pad_token_id) == (small.eos_id, small.pad_id)

    own = {"byte-bpe": set(), "wordpiece": {"vocab.txt"}}.get(small.family, {"tokenizer.model"})
    assert {path.name for path in tmp_path.iterdir()} == JSON_FORM | own
    for twin in own:
        reference = by_transformers if twin == "vocab.txt" else by_sentencepiece
        assert reference(tmp_path / twin)(texts) == expected
        assert load_tokenizer(tmp_path / twin).encode_batch(texts) == expected


def test_nothing_of_another_tokenizer_stays(tmp_path: Path, load_small: Load) -> None:
    forms = ("tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt")
    for name in (*forms, "added_tokens.json", "chat_template.jinja"):
        (tmp_path / name).write_text("of another")
    names = ("llama2/tokenizer.model", "bert-base-uncased/vocab.txt", "gpt2/tokenizer.json")
    for name, there in zip(names, ({"tokenizer.model"}, {"vocab.txt"}, set()), strict=True):
        load_small(f"tokenizers/{name}").save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == JSON_FORM | there


def test_a_twin_with_other_pieces_is_left_alone(
    shared_data: Path, tmp_path: Path, load_small: Load
) -> None:
    """A tokenizer.json beside a .model of the same pieces takes it along, no other."""
    load_small("tokenizers/albert/spiece.model").save(tmp_path)
    whole = load_tokenizer(tmp_path)
    assert whole.sentencepiece == (tmp_path / "tokenizer.model").read_bytes()
    other = (shared_data / "tokenizers/t5-v1_1/spiece.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(other)
    alone = load_tokenizer(tmp_path)
    assert alone.sentencepiece is None
    alone.save(tmp_path)
    assert not (tmp_path / "tokenizer.model").exists()


def test_a_folder_with_merges_is_read(shared_data: Path, tmp_path: Path, load_shared: Load) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(shared_data / "tokenizers/gpt2" / name)
    pair, whole = load_tokenizer(tmp_path), load_shared("tokenizers/gpt2/tokenizer.json")
    assert pair.document["model"]["merges"] == whole.document["model"]["merges"]
    assert pair.backend.get_vocab() == whole.backend.get_vocab()
    assert pair.roles == whole.roles
