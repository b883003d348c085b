"""The report of a run: what it says, and what it leaves out when there is nothing to say."""

import dataclasses

import pytest

from pocketlm.run_report import (
    ExportedFile,
    Interval,
    LossPoint,
    RunReport,
    Side,
    StageLine,
    run_report,
    verdict,
)
from pocketlm.run_report.forgetting import ForgettingNotes, PartCurve, given_back
from pocketlm.run_report.vocabulary import CoveragePoint, VocabularyNotes

PARTS = {"embedding": 40, "attention": 30, "ffn": 28, "norms": 2, "head": 0}
CHILD = Side(params=100, num_bytes=400, vocab_size=512, params_by_part=PARTS)
PARENT = Side(params=400, num_bytes=1600, vocab_size=1024, params_by_part=PARTS)
BARE = RunReport(name="bare", lineage=[], child=CHILD, recipe_toml="")


@pytest.fixture
def full() -> RunReport:
    child = dataclasses.replace(
        CHILD,
        tokens_per_byte=0.26,
        bits_per_byte=Interval(1.5, 1.45, 1.55),
        prefill_tokens_per_s=5000.0,
        decode_tokens_per_s=400.0,
        sample="Once <b>more</b>",
    )
    parent = dataclasses.replace(
        child, params=400, bits_per_byte=Interval(1.25, 1.2, 1.3), sample="There was"
    )
    return RunReport(
        name="full",
        lineage=["parent: big", "corpus: stories"],
        child=child,
        parent=parent,
        difference=Interval(0.25, 0.2, 0.3),
        curve=[CoveragePoint(256, 0.5, 0.4), CoveragePoint(512, 0.9, 0.26)],
        vocabulary=VocabularyNotes(
            reason="as given",
            law_size=300,
            warnings=["held-out text grows more"],
            provenance={"byte": 256, "usage": 256},
            checks=[("round trip", True, 20, ""), ("same ids", False, 9, "1 times; first: 'x'")],
        ),
        losses=[LossPoint(1000 * n, 5 / n, 1e-3) for n in range(1, 30)],
        round_starts=[15_000],
        exported=[ExportedFile("gguf-q8_0", 123_000, "64 greedy tokens equal")],
        prompt="Once",
        stages=[StageLine("compact", 75.2, "compact-0a1b", True)],
        recipe_toml='name = "full"',
    )


def test_every_part_is_on_the_page(full: RunReport) -> None:
    html = run_report(full)
    for text in (
        "Parent against child", "1.5000", "1.2500", "child / parent", "0.25",
        "Vocabulary", "Training", "round 2", "chosen: 512", "law: 300",
        "Size: as given", "Warning: held-out", "256 byte, 256 usage", "holds", "broken",
        "64 greedy tokens equal", "123 kB",
        "Once &lt;b&gt;more&lt;/b&gt;", "There was", "compact-0a1b", "reused", "1m 15s",
        "parent: big", "name = &quot;full&quot;",
    ):  # fmt: skip
        assert text in html, text


def test_without_a_parent_there_is_only_the_child(full: RunReport) -> None:
    html = run_report(dataclasses.replace(full, parent=None, difference=None))
    assert "The child" in html
    assert "child / parent" not in html
    assert "There was" not in html


def test_without_measurements_there_are_no_empty_sections() -> None:
    html = run_report(BARE)
    for title in ("Vocabulary", "Training", "Files", "Samples"):
        assert f"<h2>{title}</h2>" not in html


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Interval(0.25, 0.2, 0.3), "needs 0.250 more bits per byte (95 % interval +0.200 to"),
        (Interval(-0.25, -0.3, -0.2), "needs 0.250 fewer bits per byte"),
        (Interval(0.05, -0.1, 0.2), "cannot be told apart"),
        (None, "not compared"),
    ],
)
def test_verdict_says_what_the_interval_allows(difference: Interval | None, said: str) -> None:
    sentence = verdict(dataclasses.replace(BARE, parent=PARENT, difference=difference))
    assert said in sentence
    assert "25 % of its parent's" in sentence


def test_verdict_without_a_parent() -> None:
    assert verdict(BARE) == "bare has 100 parameters in 400 B."


def test_the_shape_s_section_says_what_was_chosen_and_why_others_lost() -> None:
    from pocketlm.run_report.shapes import (
        ShapeLine,
        ShapeNotes,
        TimedLine,
        shape_lines,
        shape_section,
    )

    def line(layers: int, why: str) -> ShapeLine:
        return ShapeLine(
            shape=f"{layers} layers x 64", layers=layers, params=10_000 * layers,
            num_bytes=20_000 * layers, tokens_per_s=1000 / layers, value=1.5, unit="bits/byte",
            why=why,
        )  # fmt: skip

    lines = [line(4, ""), line(2, "fewer layers <b>")]
    notes = ShapeNotes(rank="deep-first", runtime="roofline, q8_0", num_legal=1234,
                       short_list=lines, frontier=lines,
                       excluded=["more than 8 layers"])  # fmt: skip
    page = "".join(shape_section(notes))
    assert "fewer layers &lt;b&gt;" in page
    assert "<svg" in page
    assert "1,234 legal shapes" in page
    assert "more than 8 layers" in page
    assert "chosen" in shape_lines(notes)[1]
    assert shape_section(None) == []
    assert "timed here" not in page
    timed = TimedLine(tokens_per_s=250, tokens_per_s_median=125, spread=3.5, prompt_tokens=64,
                      first_token_ms=1.5, first_token_ms_median=1.75,
                      first_token_spread=2.5)  # fmt: skip
    replace = dataclasses.replace
    measured = replace(notes, short_list=[replace(lines[0], timed=timed), lines[1]])
    page = "".join(shape_section(measured))
    for shown in ("timed here", "250", "125", "3.50", "1.5", "1.75", "2.50", "prompts of 64"):
        assert shown in page


def test_forgetting_is_the_gap_won_and_given_back(full: RunReport) -> None:
    """Trained at 20 tokens, 0.5 below held-back text right after, half of that lost at the end."""
    part = PartCurve(20, [5.0, 4.1, 3.0, 2.75])
    notes = ForgettingNotes([0, 20, 30, 40], [5.0, 4.0, 3.5, 3.0], [part] * 8)
    assert given_back(notes, part) == pytest.approx((0.1, -0.5, -0.25))
    html = run_report(dataclasses.replace(full, forgetting=notes))
    for text in ("part at 20", "held back", "re-scored", "20 tokens", "-0.500", "0.250"):
        assert text in html, text
    assert "re-scored" not in run_report(full)
