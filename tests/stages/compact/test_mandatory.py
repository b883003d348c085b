"""What stays whatever its count, and why."""

import re
from pathlib import Path

import pytest

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact.derive import ATOM, read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, mandatory_tokens
from pocketlm.stages.compact.surfaces import script_of


def reasons_of(tokenizer: Tokenizer, keep: Keep) -> dict[int, str]:
    return mandatory_tokens(tokenizer, read_vocabulary(tokenizer), keep=keep)


def surfaces_with(tokenizer: Tokenizer, reasons: dict[int, str], reason: str) -> set[str]:
    surfaces_P = read_vocabulary(tokenizer).surfaces_P
    return {surfaces_P[i] for i, r in reasons.items() if r == reason}


def test_nothing_asked_for(tokenizer: Tokenizer) -> None:
    reasons = reasons_of(tokenizer, Keep())
    assert set(reasons.values()) <= {"special", "added", "byte"}
    assert list(reasons.values()).count("byte") == 256


def test_texts_stay_whole(tokenizer: Tokenizer) -> None:
    reasons = reasons_of(tokenizer, Keep(texts=("the License shall",)))
    assert set(tokenizer.encode("the License shall")) <= reasons.keys()
    assert "keep" in reasons.values()


def test_patterns_match_whole_surfaces(tokenizer: Tokenizer) -> None:
    pattern = r" ?[a-z]{2,3}"
    reasons = reasons_of(tokenizer, Keep(patterns=(pattern, "我们")))
    found = surfaces_with(tokenizer, reasons, "pattern")
    surfaces = {s for s in read_vocabulary(tokenizer).surfaces_P if s}
    expected = {s for s in surfaces if re.fullmatch(pattern, s)} | ({"我们"} & surfaces)
    assert found == expected
    assert len(found) > 20


def test_a_script_is_every_token_of_it(tokenizer: Tokenizer) -> None:
    for name in ("Han", "cjk", "HAN"):
        reasons = reasons_of(tokenizer, Keep(scripts=(name,)))
        found = surfaces_with(tokenizer, reasons, "script")
        surfaces_P = read_vocabulary(tokenizer).surfaces_P
        assert found == {s for s in surfaces_P if s and script_of(s) == "HAN"}
        assert found


def test_what_stays_keeps_what_it_is_built_from(tokenizer: Tokenizer) -> None:
    vocabulary = read_vocabulary(tokenizer)
    reasons = reasons_of(tokenizer, Keep(patterns=(" ?[Ll]icensor",), scripts=("Han",)))
    assert "ancestor" in reasons.values()
    for i in reasons:
        halves = {int(vocabulary.left_P[i]), int(vocabulary.right_P[i])} - {ATOM}
        assert halves <= reasons.keys()


def test_the_first_reason_counts(byte_bpe: Tokenizer) -> None:
    text = "License"
    keep = Keep(texts=(text,), patterns=(text,), scripts=("Latin",))
    reasons = reasons_of(byte_bpe, keep)
    assert {reasons[i] for i in byte_bpe.encode(text)} <= {"keep", "byte"}
    only = reasons_of(byte_bpe, Keep(patterns=(text,), scripts=("Latin",)))
    assert {only[i] for i in byte_bpe.encode(text)} <= {"pattern", "script", "byte"}


def test_a_bad_pattern_is_named(byte_bpe: Tokenizer) -> None:
    with pytest.raises(RecipeError, match=r"keep_patterns = '\(ab': no regular expression"):
        reasons_of(byte_bpe, Keep(patterns=("ok", "(ab")))


def test_an_unknown_script_is_refused(byte_bpe: Tokenizer) -> None:
    with pytest.raises(RecipeError, match=r"keep_scripts = 'Klingon': .* has Han, Latin"):
        reasons_of(byte_bpe, Keep(scripts=("Latin", "Klingon")))


@pytest.mark.parametrize("name", ["t5-v1_1/spiece.model", "bert-base-uncased/vocab.txt"])
def test_families_without_merges(shared_data: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
    keep = Keep(texts=("hello world",), patterns=(" ?wonder.*",), scripts=("Latin",))
    reasons = reasons_of(tokenizer, keep)
    assert {"special", "keep", "pattern", "script"} <= set(reasons.values())
    assert "ancestor" not in reasons.values()
    assert set(tokenizer.encode("hello world")) <= reasons.keys()
