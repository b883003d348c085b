"""Real tokenizers and a real model in the real llama.cpp."""

import gzip
import json

import pytest
import torch

from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config
from pocketlm.stages.export import export

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def _texts(path, count: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [
            json.loads(line)["text"][:500] for line, _ in zip(lines, range(count), strict=False)
        ]


def _scores(child, tokenizer, folder, texts, *formats):
    exported = export(
        child, tokenizer, folder, formats=formats, check_texts=texts, lineage={"recipe": "real"}
    )
    return exported.scores, exported.files[0]


def test_a_real_model_without_byte_pieces_runs_in_llama_cpp(shared_data, tmp_path) -> None:
    folder = shared_data / "models" / "tinystories-656k"
    texts = _texts(shared_data / "text" / "en" / "synthetic_stories.jsonl.gz", 20)
    child, tokenizer = load_child(folder), load_tokenizer(folder)
    scores, file = _scores(child, tokenizer, tmp_path, texts, "gguf-f16")
    assert scores["gguf-f16.greedy_as_child"].value > 0.99  # near ties, one in some hundreds
    outside = sum(tokenizer.unk_id in ids for ids in tokenizer.encode_batch(texts))
    assert outside > 0
    assert scores["gguf-f16.tokens_equal"].value == 1 - outside / len(texts)
    assert f"{outside} hold characters outside the vocabulary" in file.verified


def test_a_real_sentencepiece_vocabulary_is_read_alike(shared_data, tmp_path) -> None:
    path = shared_data / "tokenizers" / "slimpajama-bpe" / "slimpajama-6B-4096-BPE.model"
    tokenizer = load_tokenizer(path)
    shape = Shape(
        family="llama",
        vocab_size=tokenizer.num_tokens,
        layers=1,
        hidden=32,
        heads=2,
        kv_heads=1,
        head_dim=16,
        ffn=32,
        tied=False,
    )
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    config = base_config(shape, max_positions=128, **ids)
    child = STARTS["constant"].function(config, shape, torch.Generator().manual_seed(0))
    texts = [
        *_texts(shared_data / "text" / "en" / "c4_sample.jsonl.gz", 20),
        *_texts(shared_data / "text" / "zh" / "csl_abstracts.jsonl.gz", 5),
        "  a  b",
        "naïve 😀",
    ]
    scores, file = _scores(child, tokenizer, tmp_path, texts, "gguf-q8_0")
    assert scores["gguf-q8_0.tokens_equal"].value >= 0.75
    assert "normalised first" in file.verified
