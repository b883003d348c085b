"""Every id in the file is renumbered; what must not be lost is not lost."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.stages.compact.derive import read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, chat_words, mandatory_tokens
from pocketlm.stages.compact.rebuild import alphabet, rebuild
from pocketlm.stages.compact.verify import Check, verify

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% endfor %}Answer: "
)


def with_specials(tokenizer: Tokenizer, post_processor: dict) -> Tokenizer:
    """`tokenizer` with three more specials at the end and another post-processor."""
    document = json.loads(tokenizer.backend.to_str())
    first = tokenizer.num_tokens
    document["added_tokens"] += [
        {
            "id": first + n,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": n < 2,
        }
        for n, content in enumerate(["<cls>", "<sep>", "<plain>"])
    ]
    document["post_processor"] = post_processor
    roles = {"bos_token": "<cls>", "eos_token": "<sep>"}
    return tokenizer_from_document(document, roles=roles, chat_template=TEMPLATE)


def template(first: int) -> dict:
    return {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<cls>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<cls>": {"id": "<cls>", "ids": [first], "tokens": ["<cls>"]}},
    }


def ends(kind: str, first: int) -> dict:
    extra = {"trim_offsets": True, "add_prefix_space": False} if kind[0] == "R" else {}
    return {"type": kind, "sep": ["<sep>", first + 1], "cls": ["<cls>", first], **extra}


@pytest.mark.parametrize("kind", ["template", "BertProcessing", "RobertaProcessing", "sequence"])
def test_ids_of_specials_move_everywhere(byte_bpe: Tokenizer, kind: str) -> None:
    first = byte_bpe.num_tokens
    processor = {
        "template": template(first),
        "sequence": {"type": "Sequence", "processors": [template(first)]},
    }.get(kind) or ends(kind, first)
    parent = with_specials(byte_bpe, processor)
    vocabulary = read_vocabulary(parent)
    kept = sorted(mandatory_tokens(parent, vocabulary, keep=Keep()))
    child = rebuild(parent, np.array(kept))
    text = "<plain> text"
    assert child.num_tokens == len(kept)
    assert child.roles == parent.roles
    assert child.adds_bos
    assert child.chat_template == parent.chat_template
    assert child.backend.token_to_id("<plain>") in child.encode(text)
    before, after = (t.backend.encode("").ids for t in (parent, child))
    assert [kept[i] for i in after] == before


def test_merges_stay_in_order_and_only_complete_ones(tokenizer: Tokenizer) -> None:
    keep = Keep(texts=("the",))
    kept_V = np.array(sorted(mandatory_tokens(tokenizer, read_vocabulary(tokenizer), keep=keep)))
    child = json.loads(rebuild(tokenizer, kept_V).backend.to_str())["model"]
    parent = json.loads(tokenizer.backend.to_str())["model"]
    vocab = child["vocab"]
    assert child["merges"] == [[a, b] for a, b in parent["merges"] if {a, b, a + b} <= vocab.keys()]
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_alphabet_is_the_256_bytes(tokenizer: Tokenizer) -> None:
    assert len(set(alphabet(tokenizer))) == 256


def test_chat_words_are_what_the_template_writes() -> None:
    words = chat_words(TEMPLATE, ["<|im_start|>"])
    assert {"Answer: ", "user", "assistant", "system", "\n"} <= set(words)
    assert not any("<|im_start|>" in word for word in words)
    assert chat_words(None, []) == []


def test_reasons_name_the_first_that_applies(byte_bpe: Tokenizer) -> None:
    parent = with_specials(byte_bpe, template(byte_bpe.num_tokens))
    reasons = mandatory_tokens(parent, read_vocabulary(parent), keep=Keep(texts=(" shall",)))
    assert reasons[parent.bos_id] == "special"
    assert reasons[parent.backend.token_to_id("<plain>")] == "added"
    assert reasons[parent.encode("\n")[0]] == "byte"
    assert set(reasons.values()) == {"special", "added", "byte", "chat", "keep", "ancestor"}


def failures(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.note for check in checks if not check.passed}


def test_verify_sees_a_lost_byte(byte_bpe: Tokenizer) -> None:
    kept_V = np.array([i for i in range(byte_bpe.num_tokens) if i != byte_bpe.encode("é")[0]])
    found = failures(verify(byte_bpe, rebuild(byte_bpe, kept_V), kept_V, texts=["café é"]))
    assert "comes back as" in found["round trip"]


def test_verify_sees_a_dead_token(byte_bpe: Tokenizer) -> None:
    left_P = read_vocabulary(byte_bpe).left_P
    half = next(int(i) for i in left_P if i >= 0 and left_P[i] >= 0)
    kept_V = np.array([i for i in range(byte_bpe.num_tokens) if i != half])
    found = failures(verify(byte_bpe, rebuild(byte_bpe, kept_V), kept_V, texts=["text"]))
    assert "times; first:" in found["reachable"]


def test_verify_sees_a_wrong_map(byte_bpe: Tokenizer) -> None:
    kept_V = np.arange(byte_bpe.num_tokens)
    found = failures(verify(byte_bpe, byte_bpe, kept_V[::-1], texts=["text"]))
    assert "expected" in found["ids"]
