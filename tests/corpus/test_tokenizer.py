"""Tokenizers in and out: conversion, frames, saving, and what is refused."""

import gzip
import io
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import ParentError

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")

Load = Callable[[str], Tokenizer]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
MODELS = {
    "llama2": "tokenizers/llama2/tokenizer.model",
    "slimpajama": "tokenizers/slimpajama-bpe/slimpajama-6B-4096-BPE.model",
}
PLAIN = {
    "byte_fallback": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
}
# Options of the trainer that change ids; each is one way a public model is made.
OPTIONS = {
    "plain": PLAIN,
    "default": {},
    "dummy prefix": {**PLAIN, "add_dummy_prefix": True},
    "trimmed": {**PLAIN, "remove_extra_whitespaces": True},
    "no byte fallback": {**PLAIN, "byte_fallback": False},
    "nfkc": {**PLAIN, "normalization_rule_name": "nfkc"},
    "user-defined": {**PLAIN, "user_defined_symbols": ["<eoh>", "▁▁", "ab"]},
    "blanks in runs": {**PLAIN, "allow_whitespace_only_pieces": True},
}


@pytest.fixture(scope="session")
def license_text(root: Path) -> str:
    return (root / "LICENSE").read_text()


@pytest.fixture(scope="session")
def byte_bpe(license_text: str) -> Tokenizer:
    return train_tokenizer(iter(license_text.splitlines(keepends=True)), vocab_size=500)


def real_texts(shared_data: Path, name: str, count: int) -> list[str]:
    with gzip.open(shared_data / "text" / name, "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line)["text"][:3000] for line in islice(lines, count)]


def train_model(text: str, path: Path, **options: object) -> Path:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        minloglevel=3,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.mark.parametrize("name", MODELS)
def test_model_ids_equal_sentencepiece_on_real_text(
    shared_data: Path, load_shared: Load, name: str
) -> None:
    import sentencepiece

    path = shared_data / MODELS[name]
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_shared(MODELS[name])
    texts = real_texts(shared_data, "en/stackexchange_sample.jsonl.gz", 40)
    texts += real_texts(shared_data, "zh/iflytek_app_descriptions.jsonl.gz", 40)
    expected = reference.encode(texts)
    assert tokenizer.encode_batch(texts) == expected
    assert [tokenizer.decode(ids) for ids in expected] == [reference.decode(i) for i in expected]


@pytest.mark.slow
def test_internlm_ids_equal_sentencepiece(shared_data: Path, load_shared: Load) -> None:
    """Tied scores between pieces, 141 user-defined pieces, a NUL piece that is never matched."""
    import sentencepiece

    name = "tokenizers/internlm/tokenizer_internlm.model"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / name))
    tokenizer = load_shared(name)
    texts = ["MB. [iFixit]", "a\0b", "<eoh>\n<eoa> <TOKENS_UNUSED_2><s>", "  ", "........ (). "]
    texts += real_texts(shared_data, "en/c4_sample.jsonl.gz", 300)
    texts += real_texts(shared_data, "zh/poems_tang_song.jsonl.gz", 300)
    assert tokenizer.encode_batch(texts) == reference.encode(texts)
    assert (tokenizer.num_tokens, tokenizer.frame([5])) == (103_168, [1, 5, 2])


@pytest.mark.parametrize("name", OPTIONS)
def test_model_options_keep_ids(license_text: str, tmp_path: Path, name: str) -> None:
    import sentencepiece

    text = license_text + "  if x:\n        return\n" * 50
    path = train_model(text, tmp_path / "a.model", **OPTIONS[name])
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(path)

    @given(TEXTS | st.text("ab <>eoh.=-\t\n1", max_size=40))
    @settings(max_examples=100, deadline=None)  # a busy machine is no failure
    def same(text: str) -> None:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids
        if reference.unk_id() not in ids:
            assert tokenizer.decode(ids) == reference.decode(ids)

    same()
    texts = [line * 2 for line in text.splitlines()]
    assert tokenizer.encode_batch(texts) == reference.encode(texts)


def test_tied_scores_go_to_the_left_pair(tmp_path: Path, license_text: str) -> None:
    """`.(` and `(i` of one score: in `.(i` the left one wins, in SentencePiece and here."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    path = train_model(license_text, tmp_path / "a.model", **PLAIN)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    for content in ("(i", ".(", "((", "((("):  # in the order that would be wrong
        proto.pieces.add(piece=content, score=-1.5)
    path.write_bytes(proto.SerializeToString())
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(path)
    for text in (".(i", "a.(it", "(((((", "((i"):
        assert tokenizer.encode(text) == reference.encode(text)


@settings(deadline=None)  # a busy machine is no failure
@given(text=TEXTS)
def test_trained_byte_bpe_is_lossless(byte_bpe: Tokenizer, text: str) -> None:
    assert byte_bpe.decode(byte_bpe.encode(text)) == text


def test_trained_byte_bpe_frames_with_its_one_special(byte_bpe: Tokenizer) -> None:
    assert byte_bpe.num_tokens == 500
    assert byte_bpe.bos_id == byte_bpe.eos_id == byte_bpe.prefix_id == 0
    assert byte_bpe.suffix_id is None
    assert byte_bpe.frame([7, 8]) == [0, 7, 8]
    assert byte_bpe.frame([]) == [0]


def test_specials_in_text_are_text(byte_bpe: Tokenizer) -> None:
    ids = byte_bpe.encode("<|endoftext|>")
    assert byte_bpe.eos_id not in ids
    assert byte_bpe.decode([0, *ids, 0]) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "prefix", "suffix"),
    [
        ("tokenizers/gpt2/tokenizer.json", 50256, None),
        ("tokenizers/llama2/tokenizer.model", 1, 2),
        ("models/tinystories-656k", 1, 2),
    ],
)
def test_frames_of_real_tokenizers(
    load_shared: Load, name: str, prefix: int, suffix: int | None
) -> None:
    tokenizer = load_shared(name)
    assert (tokenizer.prefix_id, tokenizer.suffix_id) == (prefix, suffix)
    assert tokenizer.decode(tokenizer.frame(tokenizer.encode("a dog"))) == "a dog"


def test_tinystories_ids(load_shared: Load) -> None:
    """Golden ids of the shared data's notes."""
    tokenizer = load_shared("models/tinystories-656k")
    assert tokenizer.frame(tokenizer.encode("Once upon a time, there"))[:4] == [1, 80, 147, 201]
    assert tokenizer.roles["bos_token"] == "<|start_story|>"


@pytest.mark.parametrize("family", [None, "llama", "qwen3", "mistral", "olmo2"])
@pytest.mark.parametrize("name", ["trained", "models/tinystories-656k", MODELS["slimpajama"]])
def test_transformers_reads_the_same_ids(
    load_shared: Load, tmp_path: Path, byte_bpe: Tokenizer, name: str, family: str | None
) -> None:
    from transformers import AutoTokenizer

    tokenizer = byte_bpe if name == "trained" else load_shared(name)
    tokenizer.save(tmp_path)
    if family:
        end = {"bos_token_id": 0, "eos_token_id": 0}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **end}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.num_tokens
    assert theirs.bos_token_id == tokenizer.bos_id
    assert theirs.eos_token_id == tokenizer.eos_id
    for text in ("Hello  world\n 2024", "你好，世界 é", " a b", ""):
        ids = theirs(text)["input_ids"]
        assert ids == ([tokenizer.bos_id] if tokenizer.adds_bos else []) + tokenizer.encode(text)


@pytest.mark.parametrize("name", ["models/tinystories-656k", MODELS["slimpajama"]])
def test_saved_and_read_again_is_the_same(load_shared: Load, tmp_path: Path, name: str) -> None:
    tokenizer = load_shared(name)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert again.roles == tokenizer.roles
    assert (again.prefix_id, again.suffix_id) == (tokenizer.prefix_id, tokenizer.suffix_id)


def test_chat_template_is_kept(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    from dataclasses import replace

    replace(byte_bpe, chat_template="{{ messages }}").save(tmp_path)
    assert load_tokenizer(tmp_path / "tokenizer.json").chat_template == "{{ messages }}"


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ParentError, match=r"no tokenizer there; accepted: .*WordPiece"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "unk_token is None; accepted"),
        ({"model": {"type": "WordLevel", "vocab": {}}}, "WordLevel"),
        (
            {"model": {"type": "BPE", "vocab": {}, "merges": [], "end_of_word_suffix": "</w>"}},
            "marks",
        ),
        (
            {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
            r"not a tokenizer\.json that can be read: .*`b`",
        ),
        ([], "JSON object"),
    ],
)
def test_documents_that_are_refused(tmp_path: Path, document: object, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ParentError, match=message):
        load_tokenizer(path)


def test_shifted_added_tokens_are_refused(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    document = json.loads(byte_bpe.backend.to_str())
    document["added_tokens"] += [{**document["added_tokens"][0], "content": "<new>", "id": 900}]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ParentError, match="'<new>' does not sit at id 900"):
        load_tokenizer(path)
