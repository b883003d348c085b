"""The stage: one comparable set of numbers for child and parent."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate import Model, evaluate
from pocketlm.stages.evaluate.bits import document_bits
from pocketlm.stages.evaluate.sample import Prompt


@dataclass(frozen=True)
class Text:
    text: str
    source: str


@pytest.fixture(scope="module")
def documents(texts) -> list[Text]:
    return [Text(text, "ab"[i % 2]) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def model(network, tokenizer) -> Model:
    return Model(network=network, tokenizer=tokenizer, num_params=7, num_bytes=28)


def _evaluate(child, parent, documents, **changes):
    settings = {"context": 64, "speed_tokens": 0, "prompt": None}
    settings |= {"rng": np.random.default_rng(0)} | changes
    return evaluate(child, parent, documents, **settings)


def test_the_same_model_on_both_sides_differs_by_nothing(model, documents) -> None:
    scores = _evaluate(model, model, documents).scores
    for name in ("bits_per_byte", "bits_per_byte_low", "bits_per_byte_high"):
        assert scores[f"difference.{name}"].value == pytest.approx(0, abs=1e-12)
        assert scores[f"child.{name}"] == scores[f"parent.{name}"]
    assert scores["child.bits_per_byte"].unit == "bits/byte"


def test_per_document_columns_give_the_score_back(model, documents, texts) -> None:
    evaluation = _evaluate(model, model, documents)
    table = evaluation.per_document
    kept = [text for text in texts if text]
    assert list(table) == ["source", "text_sha256", "bytes", "child_bits", "parent_bits"]
    assert table["text_sha256"] == [hashlib.sha256(text.encode()).hexdigest() for text in kept]
    value = sum(table["child_bits"]) / sum(table["bytes"])
    assert evaluation.scores["child.bits_per_byte"].value == pytest.approx(value)
    own = document_bits(model.network, model.tokenizer, kept, context=64)
    assert table["child_bits"] == own.bits_N.tolist()


def test_what_was_not_asked_for_is_absent(model, documents) -> None:
    evaluation = _evaluate(model, None, documents)
    assert not evaluation.samples
    assert not evaluation.spread
    assert not [name for name in evaluation.scores if not name.startswith("child.")]
    assert "parent_bits" not in evaluation.per_document


def test_sources_are_told_apart_only_where_there_are_several(model, documents) -> None:
    several = _evaluate(model, None, documents).scores
    mean = np.mean([several[f"child.bits_per_byte[{s}]"].value for s in "ab"])
    assert several["child.bits_per_byte_macro"].value == pytest.approx(mean)
    one = _evaluate(model, None, [replace(d, source="a") for d in documents]).scores
    assert not [name for name in one if "[" in name or "macro" in name]


def test_sizes_speed_and_samples(model, documents) -> None:
    prompt = Prompt(text="You may", new_tokens=4)
    evaluation = _evaluate(model, model, documents[:2], speed_tokens=1, prompt=prompt)
    scores = evaluation.scores
    assert (scores["child.params"].value, scores["child.bytes"].value) == (7, 28)
    assert scores["child.unknown_share"].value == 0
    assert 0 < scores["child.tokens_per_byte"].value <= 1
    for name, unit in (("decode_tokens_per_s", "tokens/s"), ("first_token_ms", "ms")):
        assert scores[f"parent.{name}"].unit == unit
        spread = evaluation.spread[f"parent.{name}"]
        assert spread.min <= scores[f"parent.{name}"].value <= spread.max
    assert evaluation.samples["child"] == evaluation.samples["parent"]


def test_no_text_is_the_users_problem(model) -> None:
    with pytest.raises(CorpusError, match="held-out part of the corpus is empty"):
        _evaluate(model, None, [Text("", "a")])
