"""The curve of sizes, how many tokens stay, and what is worth a warning."""

from dataclasses import dataclass

import numpy as np
import pytest

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact.cautions import overfit_warning, script_warning
from pocketlm.stages.compact.curve import Curve, curve_of
from pocketlm.stages.compact.derive import ATOM, Vocabulary, read_vocabulary
from pocketlm.stages.compact.mandatory import Keep, mandatory_tokens
from pocketlm.stages.compact.rebuild import rebuild
from pocketlm.stages.compact.select import SELECTORS, Observed, choose
from pocketlm.stages.compact.size import Body, Size, decide_size, law_vocab_size

SMALL = Body(params=4_000, hidden=16, matrices=1)
FORCED = {**dict.fromkeys(range(40), "byte"), **dict.fromkeys(range(40, 100), "script")}


@dataclass(frozen=True)
class Counted:
    """Stands in for `Counts`."""

    counts_P: np.ndarray
    num_bytes: int

    @property
    def num_tokens(self) -> int:
        return int(self.counts_P.sum())

    @property
    def tokens_per_byte(self) -> float:
        return self.num_tokens / self.num_bytes


def counted(tokenizer: Tokenizer, texts: list[str]) -> Counted:
    ids = [i for text in texts for i in tokenizer.encode(text)]
    counts_P = np.bincount(ids, minlength=tokenizer.num_tokens)
    return Counted(counts_P, sum(len(text.encode()) for text in texts))


def curve(smallest: int = 100, largest: int = 1000) -> Curve:
    """Half of the text's tokens among what may go, the gain of each falling like 1 / size."""
    sizes = np.arange(smallest, largest + 1)
    lost = np.log(largest / sizes) / np.log(largest / smallest)
    return Curve(
        vocab_size_K=sizes, coverage_K=1 - 0.5 * lost, tokens_per_byte_K=0.25 * (1 + 0.6 * lost)
    )


@pytest.fixture(params=["usage", "smoothed", "last-merges"])
def select(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_curve_foretells_the_length(tokenizer: Tokenizer, corpus, select: str) -> None:
    texts = list(corpus.texts("train"))
    vocabulary, counts = read_vocabulary(tokenizer), counted(tokenizer, texts)
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=Keep())
    observed = Observed(train_P=counts.counts_P, choose_P=counts.counts_P)
    ranking = SELECTORS[select].function(vocabulary, observed)
    found = curve_of(vocabulary, ranking, mandatory, counts)
    near = [point for point in found.points() if point.coverage > 0.8]
    assert len(near) > 3
    for point in near[::3]:
        kept_V = choose(ranking, mandatory, point.vocab_size)
        measured = counted(rebuild(tokenizer, kept_V), texts).tokens_per_byte
        assert point.tokens_per_byte == pytest.approx(measured, rel=0.02)
        kept_share = counts.counts_P[kept_V].sum() / counts.num_tokens
        assert point.coverage == pytest.approx(float(kept_share))


def test_curve_sees_dead_tokens(byte_bpe: Tokenizer, corpus) -> None:
    """Frequency keeps pieces whose halves are gone; they count as gone."""
    texts = list(corpus.texts("train"))
    vocabulary, counts = read_vocabulary(byte_bpe), counted(byte_bpe, texts)
    mandatory = mandatory_tokens(byte_bpe, vocabulary, keep=Keep())
    observed = Observed(train_P=counts.counts_P, choose_P=counts.counts_P)
    ranking = SELECTORS["frequency"].function(vocabulary, observed)
    point = curve_of(vocabulary, ranking, mandatory, counts).at(450)
    child = rebuild(byte_bpe, choose(ranking, mandatory, 450))
    measured = counted(child, texts).tokens_per_byte
    assert measured > 1.2 * counts.tokens_per_byte
    assert point.tokens_per_byte == pytest.approx(measured, rel=0.15)


def test_curve_is_monotone_and_ends_at_the_parent(tokenizer: Tokenizer, corpus) -> None:
    vocabulary = read_vocabulary(tokenizer)
    counts = counted(tokenizer, list(corpus.texts("train")))
    mandatory = mandatory_tokens(tokenizer, vocabulary, keep=Keep())
    observed = Observed(train_P=counts.counts_P, choose_P=counts.counts_P)
    ranking = SELECTORS["usage"].function(vocabulary, observed)
    found = curve_of(vocabulary, ranking, mandatory, counts)
    assert found.vocab_size_K.tolist() == list(range(len(mandatory), tokenizer.num_tokens + 1))
    assert (np.diff(found.coverage_K) >= 0).all()
    assert (np.diff(found.tokens_per_byte_K) <= 0).all()
    last = found.points()[-1]
    assert (last.vocab_size, last.coverage) == (tokenizer.num_tokens, 1.0)
    assert last.tokens_per_byte == counts.tokens_per_byte
    assert 12 < len(found.points()) <= 24


def test_no_size_keeps_all() -> None:
    decision = decide_size(Size(), curve(), FORCED, 1000)
    assert decision.vocab_size is None
    assert "all of the parent's 1,000 tokens" in decision.reason


@pytest.mark.parametrize("number", [1000, 5000])
def test_a_number_not_below_the_parents_removes_nothing(number: int) -> None:
    decision = decide_size(Size(number=number), curve(), FORCED, 1000)
    assert decision.vocab_size is None
    assert decision.reason == (
        f"vocab_size {number} is not below the parent's 1000 tokens: nothing removed"
    )


def test_a_number() -> None:
    assert decide_size(Size(number=100), curve(), FORCED, 1000).vocab_size == 100
    with pytest.raises(RecipeError, match=r"100 tokens must stay \(60 script, 40 byte\)\. Choose"):
        decide_size(Size(number=99), curve(), FORCED, 1000)


@pytest.mark.parametrize("wanted", [0.3, 0.51, 0.77, 0.9, 0.999, 1.0])
def test_coverage_takes_the_fewest(wanted: float) -> None:
    made = curve()
    decision = decide_size(Size(coverage=wanted), made, FORCED, 1000)
    sizes = made.vocab_size_K[made.coverage_K >= wanted]
    assert decision.vocab_size == sizes.min()
    assert ("no fewer may stay" in decision.reason) == (wanted == 0.3)
    assert decision.law_vocab_size is None


@pytest.mark.parametrize("matrices", [1, 2])
@pytest.mark.parametrize("wanted", [0.05, 0.4, 0.6, 0.9])
def test_share_takes_the_most(wanted: float, matrices: int) -> None:
    body = Body(params=4_000, hidden=16, matrices=matrices)
    size = Size(max_share=wanted, body_of=lambda _: body)
    decision = decide_size(size, curve(), FORCED, 1000)
    legal = [100, *range(128, 1000, 64), 1000]
    within = [v for v in legal if matrices * 16 * v <= wanted * (4_000 + matrices * 16 * v)]
    assert decision.vocab_size == max(within, default=100)
    assert ("fewer may not stay" in decision.reason) == (not within)


def test_share_of_a_budget() -> None:
    """All parameters are 20,000; the body is what the vocabulary leaves, and from 1,250 nothing."""

    def body_of(vocab_size: int) -> Body:
        left = 20_000 - 16 * vocab_size
        return Body(left, 16, 1) if left > 0 else Body(0, 1, 1)

    decision = decide_size(Size(max_share=0.2, body_of=body_of), curve(100, 4000), FORCED, 4000)
    assert decision.vocab_size == 192  # 250 would be 20 %
    assert decision.law_vocab_size is not None


def test_auto_is_the_least_work() -> None:
    for params in (0.5e3, 4e3, 30e3, 1e7):
        body = Body(params=int(params), hidden=16, matrices=2)
        made = curve()
        decision = decide_size(Size(auto=True, body_of=lambda _, b=body: b), made, FORCED, 1000)
        cost_K = (params + 16 * made.vocab_size_K) * made.tokens_per_byte_K
        assert decision.vocab_size == made.vocab_size_K[cost_K.argmin()]
        assert ("no fewer may stay" in decision.reason) == (decision.vocab_size == 100)
        assert decision.law_vocab_size == law_vocab_size(body)


def test_auto_with_a_body_that_depends_on_the_size() -> None:
    def body_of(vocab_size: int) -> Body:
        return Body(8_000, 16, 1) if vocab_size < 400 else Body(0, 1, 1)

    made = curve()
    decision = decide_size(Size(auto=True, body_of=body_of), made, FORCED, 1000)
    cost_K = (8_000 + 16 * made.vocab_size_K) * made.tokens_per_byte_K
    least = made.vocab_size_K[:300][cost_K[:300].argmin()]
    assert decision.vocab_size == pytest.approx(least, rel=0.05)
    with pytest.raises(RecipeError, match="no vocabulary leaves room"):
        decide_size(Size(auto=True, body_of=lambda _: Body(0, 1, 1)), curve(), FORCED, 1000)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"number": 5, "coverage": 0.9}, "vocab_size, coverage: give one"),
        ({"auto": True, "max_share": 0.2}, "max_share, vocab_size = auto: give one"),
        ({"coverage": 1.2}, "coverage = 1.2: above 0"),
        ({"max_share": 1.0}, "max_share = 1.0: above 0, below 1"),
        ({"auto": True}, r"vocab_size = auto: .* give \[design\] shape, or a parent"),
        ({"max_share": 0.2}, r"max_share: .* give \[design\] shape, or a parent"),
    ],
)
def test_wishes_that_are_none(wanted: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Size(**wanted)


@pytest.mark.parametrize(
    ("millions", "hidden", "thousands"),
    [
        (10, 256, 6.8),
        (33, 512, 10),
        (85, 768, 16),
        (151, 768, 25),
        (302, 1024, 33),
        (915, 1792, 47),
    ],
)
def test_the_published_law(millions: int, hidden: int, thousands: float) -> None:
    found = law_vocab_size(Body(millions * 10**6, hidden, 1))
    assert found == pytest.approx(1000 * thousands, rel=0.04)


def test_the_law_stays_in_its_range() -> None:
    assert law_vocab_size(Body(1, 4096, 1)) == 1_024
    assert 200_000 < law_vocab_size(Body(10**15, 64, 1)) <= 235_000


def test_overfitting_is_told() -> None:
    assert overfit_warning(0.02, 0.029) is None
    assert overfit_warning(0.0, 0.004) is None  # too little to tell
    line = overfit_warning(0.01, 0.031)
    assert line is not None
    assert "3.1 %" in line
    assert "1.0 %" in line


def tokens(*surfaces: str | None) -> Vocabulary:
    nothing = np.full(len(surfaces), ATOM)
    ones = np.ones(len(surfaces), dtype=np.int64)
    return Vocabulary(
        family="byte-bpe", pieces_P=surfaces, surfaces_P=surfaces, left_P=nothing, right_P=nothing,
        rank_P=nothing, length_P=ones, extra_P=ones,
    )  # fmt: skip


def test_a_lost_script_is_told() -> None:
    vocabulary = tokens("the", "中", "文", None, "да", "12")
    train_P, other_P = np.array([50, 0, 0, 9, 5, 1]), np.array([60, 20, 4, 6, 10, 0])
    lines = script_warning(vocabulary, np.array([0, 2, 3, 4, 5]), train_P, other_P)
    assert lines == [
        "Han is 24 % of the other text's tokens and none of the training text's; 1 of its tokens "
        "stay, the rest is written in bytes"
    ]
    assert script_warning(vocabulary, np.arange(6), train_P, other_P) == []
    (line,) = script_warning(vocabulary, np.array([0, 1, 2, 3]), train_P, other_P)
    assert line.startswith("Cyrillic is 10 % of the other text's tokens and 7.7 % of the training")
    assert "none of its tokens stay" in line


def test_a_stray_word_is_no_script() -> None:
    vocabulary = tokens("the", "中")
    train_P = np.array([9, 0])
    assert script_warning(vocabulary, np.array([0]), train_P, np.array([100_000, 9])) == []
    assert script_warning(vocabulary, np.array([0]), train_P, np.array([100_000, 11])) != []
