"""Choices a run makes by itself: by arithmetic where memory decides, by trying where speed does."""

from dataclasses import replace
from typing import Any

import pytest

from pocketlm.model.cost import training_bytes
from pocketlm.model.shape import Shape
from pocketlm.recipe import TrainTable
from pocketlm.stages.train import automatic
from pocketlm.stages.train.automatic import (
    COMPILE_SAVES,
    COMPILE_SECONDS,
    Choices,
    compiling_pays,
    fit_memory,
    try_choices,
    usual_choices,
)

SHAPE = Shape(
    family="llama", vocab_size=50_000, layers=4, hidden=256, heads=4, kv_heads=4, head_dim=64,
    ffn=704, tied=True,
)  # fmt: skip
TABLE = TrainTable(seq_len=128, batch_tokens=16 * 128)
USUAL = Choices("query-blocks", False, 16, "full")


def room(tokens: int, *, logits: bool) -> int:
    """Bytes of a device on which such a step fits, hardly."""
    return round(training_bytes(SHAPE, tokens, logits=logits) / 0.8) + 1000


def test_memory_takes_the_logits_first_and_then_halves_the_batch() -> None:
    whole, half = 16 * 128, 8 * 128
    assert fit_memory(SHAPE, TABLE, "sdpa", room(whole, logits=True)) == (16, "full")
    assert fit_memory(SHAPE, TABLE, "sdpa", room(whole, logits=False)) == (16, "chunked")
    assert fit_memory(SHAPE, TABLE, "sdpa", room(half, logits=False)) == (8, "chunked")
    assert fit_memory(SHAPE, TABLE, "sdpa", 1) == (1, "chunked")


def test_query_blocks_and_recomputing_count() -> None:
    memory = room(16 * 128, logits=False)
    assert fit_memory(SHAPE, TABLE, "query-blocks", memory)[0] < 16
    again = TABLE.model_copy(update={"recompute": True})
    assert fit_memory(SHAPE, again, "query-blocks", memory) == (16, "chunked")


def test_what_the_recipe_fixes_stays() -> None:
    fixed = TrainTable(
        seq_len=128, batch_tokens=16 * 128, micro_batch_tokens=500, cross_entropy="full"
    )
    assert fit_memory(SHAPE, fixed, "sdpa", 1) == (3, "full")


def test_attention_falls_back_to_the_fused_kernel_where_squares_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert usual_choices(SHAPE, TABLE, "cpu").attention == "query-blocks"
    monkeypatch.setattr(automatic, "memory_bytes", lambda: 2**24)
    assert usual_choices(SHAPE, TABLE, "cpu").attention == "sdpa"
    eager = TABLE.model_copy(update={"attention": "eager"})
    assert usual_choices(SHAPE, eager, "cpu").attention == "eager"


class Clock:
    """Steps that take the seconds a table says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.seconds, self.now, self.tried = seconds, 0.0, set[str]()
        monkeypatch.setattr(automatic.time, "perf_counter", lambda: self.now)

    def step(self, choices: Choices) -> None:
        assert not choices.compile  # a rival is never compiled
        self.tried.add(choices.attention)
        self.now += self.seconds[choices.attention.replace("-", "_")]

    def choose(self, steps_left: int, **changes: Any) -> Choices:
        table = TABLE.model_copy(update=changes)
        return try_choices(USUAL, table, step=self.step, steps_left=steps_left, device="cpu")


def test_the_faster_attention_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, query_blocks=1.0, sdpa=0.9)
    assert clock.choose(300, compile=False) == replace(USUAL, attention="sdpa")
    clock.seconds["sdpa"] = 1.1
    assert clock.choose(300, compile=False) == USUAL


def test_short_runs_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, query_blocks=1.0, sdpa=0.1)
    assert clock.choose(199) == USUAL
    assert not clock.tried
    clock.seconds["query_blocks"] = 0.1
    assert clock.choose(1000) == USUAL  # 100 seconds in all
    assert clock.tried == {"query-blocks"}


def test_compiling_has_to_save_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = COMPILE_SECONDS / COMPILE_SAVES
    assert compiling_pays(1.0, round(enough) + 1)
    assert not compiling_pays(1.0, round(enough) - 1)
    clock = Clock(monkeypatch, query_blocks=1.0, sdpa=2.0)
    monkeypatch.setattr(automatic, "has_compiler", lambda device: True)
    assert clock.choose(round(enough) + 1).compile
    assert not clock.choose(round(enough) - 1).compile
    monkeypatch.setattr(automatic, "has_compiler", lambda device: False)
    assert not clock.choose(10_000).compile
