"""A row over many parts equals the one array it stands for, whatever is asked of it."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.row import Part, Span, TokenRow, row_of

LENGTHS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5)


def make(lengths: list[list[int]]) -> TokenRow:
    """Ids count up from 0; a document of n ids has 3 n + 1 bytes; two parts a source."""
    parts, first = [], 0
    for of_part in lengths:
        total = sum(of_part)
        ids = np.arange(first, first + total).astype(np.uint16)
        sizes = np.array([3 * n + 1 for n in of_part], np.uint32)
        parts.append(Part(ids, np.cumsum(of_part).astype(np.uint64), sizes))
        first += total
    return TokenRow(
        lambda number: parts[number],
        tokens_P=[len(part.ids_T) for part in parts],
        bytes_P=[int(part.bytes_D.sum()) for part in parts],
        sources_P=[f"source {number // 2}" for number in range(len(parts))],
    )


@settings(deadline=None)  # a busy machine is no failure
@given(LENGTHS, st.integers(1, 20))
def test_windows_and_positions_cross_parts(lengths: list[list[int]], width: int) -> None:
    row = make(lengths)
    start_B = np.arange(len(row) - width + 1)
    assert (row.windows(start_B, width) == start_B[:, None] + np.arange(width)).all()
    begins = {0, *np.cumsum([*chain(*lengths)]).tolist()}
    for start, places in zip(start_B.tolist(), row.positions(start_B, width), strict=True):
        place, expected = 0, []
        for position in range(start, start + width):
            place = 0 if position in begins or position == start else place + 1
            expected.append(place)
        assert places.tolist() == expected


@settings(deadline=None)  # a busy machine is no failure
@given(LENGTHS)
def test_bytes_are_exact_at_documents_and_add_up(lengths: list[list[int]]) -> None:
    row = make(lengths)
    flat = [n for n in [*chain(*lengths)] if n]
    before = row.bytes_before(np.arange(len(row) + 1))
    assert (np.diff(before) >= 0).all()
    assert before[-1] == row.num_bytes == sum(3 * n + 1 for n in [*chain(*lengths)])
    if len(flat) == len([*chain(*lengths)]):  # no document without ids
        ends = np.cumsum(flat)
        assert before[ends].tolist() == np.cumsum([3 * n + 1 for n in flat]).tolist()


def test_a_split_document_is_shared_out_by_its_ids() -> None:
    row = row_of(np.arange(4), 10)
    assert row.bytes_before(np.arange(5)).tolist() == [0, 2, 5, 7, 10]


def test_sources_are_spans() -> None:
    assert make([[2], [3, 1], [4]]).spans == (Span("source 0", 0, 6), Span("source 1", 6, 10))


def test_bytes_of_blocks_are_those_of_their_text() -> None:
    """A pass has the bytes of its text; any two halves of it add up to that."""
    row = make([[5, 9, 1], [7, 7], [8, 3]])
    blocks = Blocks(row, 4)
    whole = blocks.num_bytes()
    assert blocks.num_bytes(np.arange(len(blocks))) == whole
    assert whole == row.bytes_before(np.array([4 * len(blocks)]))[0]
    odd, even = np.arange(1, len(blocks), 2), np.arange(0, len(blocks), 2)
    assert blocks.num_bytes(odd) + blocks.num_bytes(even) == whole
    far = Blocks(TokenRow(lambda _: Part(np.zeros(1), np.array([2**33]), np.array([2**34])),
                          tokens_P=[2**33], bytes_P=[2**34], sources_P=["x"]), 2**20)  # fmt: skip
    assert far.num_bytes(np.array([5000], np.uint32)) == 2**21  # beyond 2^32 tokens
    assert blocks.num_bytes(np.array([0, 0])) == 2 * blocks.num_bytes(np.array([0]))
    assert Blocks(np.arange(101), 10, 3.5).num_bytes(np.arange(10)) == pytest.approx(350, abs=1)


def test_only_so_many_parts_are_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketlm.corpus.row._OPEN_PARTS", 2)
    opened: list[int] = []

    def open_part(number: int) -> Part:
        opened.append(number)
        return Part(np.arange(3), np.array([3]), np.array([5]))

    row = TokenRow(open_part, tokens_P=[3] * 4, bytes_P=[5] * 4, sources_P=["x"] * 4)
    row.windows(np.array([0, 9, 0, 3, 9]), 3)
    assert opened == [0, 3, 1, 3]
