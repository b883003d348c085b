"""Every check passes on every family, and each one fails where its invariant is broken."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.stages.compact.count import count_texts
from pocketlm.stages.compact.derive import read_vocabulary
from pocketlm.stages.compact.fuzz import fuzz_texts
from pocketlm.stages.compact.mandatory import Keep, mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import SELECTORS, Observed, choose
from pocketlm.stages.compact.verify import Check, verify

steady = settings(derandomize=True, deadline=None, max_examples=40)
CHECKS = ("ids", "roles", "round trip", "reachable", "same ids", "framed", "chat words", "rebuilt")
SHARED = (
    "gpt2/tokenizer.json",
    "llama3/tokenizer.model",
    "qwen/qwen.tiktoken",
    "internlm/tokenizer_internlm.model",
    "llama2/tokenizer.model",
    "slimpajama-bpe/slimpajama-6B-4096-BPE.model",
    "slimpajama-bpe/slimpajama-6B-32000-BPE.model",
    "albert/spiece.model",
    "t5-v1_1/spiece.model",
    "bert-base-chinese/vocab.txt",
    "bert-base-uncased/vocab.txt",
)
TEMPLATE = "{% for m in messages %}{{ 'Question: ' + m['content'] }}{% endfor %}Answer: "


@dataclass(frozen=True)
class Pair:
    """Parent, child, and the map between them."""

    parent: Tokenizer
    child: Tokenizer
    kept_V: np.ndarray

    def failures(self, texts: Sequence[str] = ("the work and the License",)) -> dict[str, Check]:
        checks = verify(self.parent, self.child, self.kept_V, texts)
        assert tuple(check.name for check in checks) == CHECKS
        assert all(check.passed == (check.failed == 0) == (not check.note) for check in checks)
        return {check.name: check for check in checks if not check.passed}


def by_usage(parent: Tokenizer, texts: Sequence[str], vocab_size: int) -> Pair:
    vocabulary = read_vocabulary(parent)
    counts_P = count_texts(parent, texts).counts_P
    observed = Observed(train_P=counts_P, choose_P=counts_P)
    ranking = SELECTORS["usage"].function(vocabulary, observed)
    mandatory = mandatory_tokens(parent, vocabulary, keep=Keep())
    kept_V = choose(ranking, mandatory, max(vocab_size, len(mandatory)))
    return Pair(parent, rebuild(parent, kept_V), kept_V)


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """English and Chinese lines that people wrote."""
    found: list[str] = []
    for name in ("en/c4_sample.jsonl.gz", "zh/iflytek_app_descriptions.jsonl.gz"):
        with gzip.open(shared_data / "text" / name, "rt", encoding="utf-8") as lines:
            found += [json.loads(line)["text"][:1500] for line in islice(lines, 40)]
    return found


@pytest.fixture(scope="module")
def halved(load_small: Callable[[str], Tokenizer], texts: list[str]) -> Callable[[str], Pair]:
    """A tokenizer of the shared data and its half by `usage`, each made once."""

    def half(name: str) -> Pair:
        parent = load_small(f"tokenizers/{name}")
        return by_usage(parent, texts, parent.num_tokens // 2)

    return cache(half)


@pytest.fixture
def pair(halved: Callable[[str], Pair], name: str) -> Pair:
    return halved(name)


@pytest.mark.parametrize("name", SHARED)
def test_half_of_every_tokenizer_passes(pair: Pair, texts: list[str], name: str) -> None:
    fuzz = fuzz_texts(pair.parent, np.random.default_rng(0), 60)
    assert pair.kept_V.size < 0.8 * pair.parent.num_tokens
    assert not pair.failures([*texts[::4], *fuzz])


@pytest.mark.parametrize("name", SHARED)
def test_any_text_of_kept_pieces_is_encoded_as_before(pair: Pair, name: str) -> None:
    rng = np.random.default_rng(0)
    surfaces = [pair.child.decode([i]) for i in rng.integers(0, pair.kept_V.size, 300).tolist()]
    parts = st.sampled_from(sorted({*surfaces, " ", "\n"}))
    characters = st.characters(exclude_categories=["Cs"])
    kept = set(pair.kept_V.tolist())
    seen: list[bool] = []

    @given(st.lists(parts, max_size=8).map("".join) | st.text(characters, max_size=12))
    @steady
    def same(text: str) -> None:
        old, new = pair.parent.encode(text), pair.child.encode(text)
        assert pair.child.decode(new) == pair.parent.decode(old)
        seen.append(kept.issuperset(old))
        if seen[-1]:
            assert pair.kept_V[new].tolist() == old

    same()
    assert any(seen)


# --- each check can fail ---


@pytest.fixture(scope="module")
def sound(byte_bpe: Tokenizer, corpus) -> Pair:
    """A closed half with a chat template and a frame."""
    parent = replace(byte_bpe, chat_template=TEMPLATE)
    return by_usage(parent, corpus.all_texts, 500)


def changed(tokenizer: Tokenizer, **places: object) -> Tokenizer:
    """`tokenizer` with other parts of its file."""
    document = {**json.loads(tokenizer.backend.to_str()), **places}
    return tokenizer_from_document(
        document, roles=tokenizer.roles, chat_template=tokenizer.chat_template
    )


def model_of(tokenizer: Tokenizer, **parts: object) -> dict:
    return {**json.loads(tokenizer.backend.to_str())["model"], **parts}


def test_nothing_fails_where_nothing_is_broken(sound: Pair) -> None:
    assert not sound.failures()


def test_ids_sees_a_wrong_map(sound: Pair) -> None:
    found = replace(sound, kept_V=sound.kept_V[::-1].copy()).failures()["ids"]
    assert "expected" in found.note
    assert found.failed == found.tried == sound.kept_V.size


def test_ids_sees_a_token_too_many(sound: Pair) -> None:
    model = model_of(sound.child)
    model["vocab"] = {**model["vocab"], "more": sound.kept_V.size}
    found = replace(sound, child=changed(sound.child, model=model)).failures()
    assert found["ids"].note.endswith("501 tokens, 500 were chosen")


@pytest.mark.parametrize("role", ["bos_id", "eos_id"])
def test_roles_sees_a_lost_role(sound: Pair, role: str) -> None:
    child = replace(sound.child, **{role: None})
    assert (
        "is None, expected '<|endoftext|>'" in replace(sound, child=child).failures()["roles"].note
    )


def test_roles_sees_a_changed_added_token(sound: Pair) -> None:
    token = {**sound.child.document["added_tokens"][0], "rstrip": True}
    child = changed(sound.child, added_tokens=[token])
    assert "added token" in replace(sound, child=child).failures()["roles"].note


def test_round_trip_sees_a_lost_byte(byte_bpe: Tokenizer) -> None:
    lost = byte_bpe.encode("é")[0]
    kept_V = np.array([i for i in range(byte_bpe.num_tokens) if i != lost])
    child = rebuild(byte_bpe, kept_V)
    found = Pair(byte_bpe, child, kept_V).failures(["café é"])
    assert "comes back as" in found["round trip"].note


def test_round_trip_sees_what_a_lossy_parent_did_not_lose(
    halved: Callable[[str], Pair], texts: list[str]
) -> None:
    pair = halved("slimpajama-bpe/slimpajama-6B-4096-BPE.model")
    broken = replace(pair, child=changed(pair.child, decoder=None))
    assert "comes back as" in broken.failures(texts[:3])["round trip"].note


def test_reachable_sees_a_dead_token(byte_bpe: Tokenizer) -> None:
    left_P = read_vocabulary(byte_bpe).left_P
    half = next(int(i) for i in left_P if i >= 0 and left_P[i] >= 0)
    kept_V = np.array([i for i in range(byte_bpe.num_tokens) if i != half])
    found = Pair(byte_bpe, rebuild(byte_bpe, kept_V), kept_V).failures()
    assert "times; first:" in found["reachable"].note


def test_same_ids_and_chat_words_see_another_order_of_merges(sound: Pair, corpus) -> None:
    merges = model_of(sound.child)["merges"][::-1]
    child = changed(sound.child, model=model_of(sound.child, merges=merges))
    found = replace(sound, child=child).failures(corpus.all_texts[:5])
    assert {"same ids", "chat words"} <= found.keys()
    assert "has other ids although all are kept" in found["same ids"].note


def test_framed_sees_a_lost_frame(sound: Pair) -> None:
    broken = replace(sound, child=changed(sound.child, post_processor=None))
    found = broken.failures()
    assert "is framed otherwise" in found["framed"].note
    assert "same ids" not in found


def test_rebuilt_sees_what_a_rebuild_would_not_write(sound: Pair) -> None:
    child = changed(sound.child)
    child.backend.enable_truncation(5)
    assert replace(sound, child=child).failures([])["rebuilt"].note == "1 times; first: it differs"
