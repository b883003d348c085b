"""Budgets that a file misses are errors, before anything is written where that can be known."""

from dataclasses import replace

import pytest

from pocketlm.errors import BudgetError
from pocketlm.model.cost import weight_bytes
from pocketlm.stages.export import export
from pocketlm.stages.export.quantise import choice_of
from pocketlm.stages.export.terms import (
    MemoryBudget,
    Terms,
    check_delivered,
    check_planned,
    stored_bytes,
)


@pytest.mark.parametrize("weights", ["f32", "f16", "q8_0", "q5_0", "q4_0"])
def test_planned_bytes_are_those_of_the_design(weights, child) -> None:
    assert stored_bytes(child.shape, f"gguf-{weights}") == weight_bytes(child.shape, weights)


def test_planned_bytes_are_those_of_the_tensors(files, child) -> None:
    gguf = pytest.importorskip("gguf")
    for kind in ("gguf-f16", "gguf-q8_0"):
        tensors = gguf.GGUFReader(files.path(kind)).tensors
        assert sum(tensor.n_bytes for tensor in tensors) == stored_bytes(child.shape, kind)


def test_a_choice_of_width_costs_what_it_keeps(child) -> None:
    plain = stored_bytes(child.shape, "gguf-q4_0")
    numbers = child.shape.vocab_size * child.shape.hidden
    wide = stored_bytes(child.shape, "gguf-q4_0", choice_of(("embedding",), None))
    assert wide - plain == numbers * 4 / 8


def test_a_token_reads_one_row_of_an_untied_embedding(child) -> None:
    tied, untied = child.shape, replace(child.shape, tied=False)
    read = [stored_bytes(s, "gguf-f16", read_by_a_token=True) for s in (tied, untied)]
    assert read[0] == read[1] == stored_bytes(tied, "gguf-f16")


def test_a_file_over_its_budget_is_refused_and_nothing_is_left(child, tokenizer, tmp_path) -> None:
    needed = stored_bytes(child.shape, "huggingface")
    for limit in (needed - 1, needed + 1):  # before writing; and after, when all files count
        with pytest.raises(BudgetError, match=rf"\[export\] max_bytes = {limit}: huggingface"):
            export(
                child,
                tokenizer,
                tmp_path,
                formats=["huggingface"],
                check_texts=[],
                lineage={},
                terms=Terms(max_bytes=limit),
            )
        assert not list(tmp_path.iterdir())
    check_delivered("huggingface", needed, Terms(max_bytes=needed))


def test_the_designs_budget_holds_for_its_own_format_only(child) -> None:
    room = stored_bytes(child.shape, "gguf-q4_0") + 1000
    memory = MemoryBudget(max_bytes=room, weight_format="q4_0", other_bytes=1000)
    formats = ["huggingface", "gguf-q8_0", "gguf-q4_0"]
    check_planned(child.shape, formats, Terms(memory=memory))
    wide = Terms(memory=memory, choice=choice_of(("embedding",), None))
    with pytest.raises(BudgetError, match=rf"\[design\] max_bytes = {room}: gguf-q4_0 needs"):
        check_planned(child.shape, formats, wide)
