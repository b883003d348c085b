"""The seam: what is scored covers the choice, the same boundary for all, and cuts spare answers."""

import io
from dataclasses import replace

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import StageError
from pocketlm.stages.evaluate.seam import (
    SEAMS,
    Pass,
    check_lengths,
    common_length,
    heal,
    lm_eval,
    shorten,
)
from pocketlm.stages.evaluate.token_bytes import TokenBytes

MODES = list(SEAMS)


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_crosses_the_choice_alone_is_scored(tokenizer, make_item, mode) -> None:
    item = make_item("You may not", [" use this", " or that"])
    (seam,) = SEAMS[mode].function(tokenizer, [item], 99)
    context = [tokenizer.prefix_id, *tokenizer.encode(item.context)]
    for choice, ids, first in zip(item.choices, seam.ids_C, seam.first_C, strict=True):
        assert ids[:first] == context == seam.context_T
        assert tokenizer.decode(ids[first:]) == choice
    assert (seam.crossed, seam.passes, seam.cut_C) == (0, (), (0, 0))


def test_chinese_choices_that_merge_with_the_colon_step_back_together(spanning, make_item) -> None:
    item = make_item("答案：", ["A", "一"])
    context, merged, apart = spanning.encode_batch(["答案：", "答案：A", "答案：一"])
    assert merged[: len(context)] != context == apart[: len(context)]
    (seam,) = heal(spanning, [item], 99)
    edge = 1 + common_length(context, merged)
    assert seam.crossed == 1
    assert seam.first_C == (edge, edge)
    table = TokenBytes(spanning)
    rest = table.of(context[edge - 1 :])
    for choice, ids in zip(item.choices, seam.ids_C, strict=True):
        assert table.of(ids[edge:]) == rest + choice.encode()
    assert seam.passes[0] == Pass(0, edge, table.starting_with(rest))
    assert {ids[edge] for ids in seam.ids_C} & set(seam.passes[0].ids)


def test_lm_eval_cuts_after_as_many_tokens_as_the_context_has(
    tokenizer, spanning, make_item
) -> None:
    item = make_item("You may \n", ["use", "not"])
    (seam,) = lm_eval(tokenizer, [item], 99)
    first = 1 + len(tokenizer.encode("You may"))  # its blanks went to the choices
    assert seam.first_C == (first, first)
    assert [ids[1:] for ids in seam.ids_C] == tokenizer.encode_batch(
        ["You may \nuse", "You may \nnot"]
    )
    crossed = make_item("答案：", ["AA"])
    (seam,) = lm_eval(spanning, [crossed], 99)
    context, whole = spanning.encode_batch(["答案：", "答案：AA"])
    assert whole[: len(context)] != context == seam.context_T[1:]
    assert seam.ids_C[0][1:] == [*context, *whole[len(context) :]]
    swallowed = make_item("答案：", ["A"])
    with pytest.raises(StageError, match="toy item 7: a choice has no token of its own"):
        list(lm_eval(spanning, [swallowed], 99))


@given(
    st.text("答案：ABC Answer: yes\n", max_size=9), st.text("：ABC yes\n", min_size=1, max_size=4)
)
def test_healed_spans_hold_the_rest_of_the_context_and_the_choice(
    spanning, make_item, context, choice
) -> None:
    (seam,) = heal(spanning, [make_item(context, [choice, "A"])], 99)
    table = TokenBytes(spanning)
    for added, ids, first in zip([choice, "A"], seam.ids_C, seam.first_C, strict=True):
        head, span = table.of(ids[1:first]), table.of(ids[first:])
        assert head + span == (context + added).encode()
        assert context.encode().startswith(head)
    for place in seam.passes:
        row = seam.ids_C[place.choice][seam.first_C[0] : place.place]
        rest = context.encode()[len(table.of(seam.ids_C[0][1 : seam.first_C[0]])) :]
        inside = table.of(row)
        assert rest.startswith(inside)
        assert inside != rest
        assert all(table.of([i]).startswith(rest[len(inside) :]) for i in place.ids)


def test_the_leading_blank_of_sentencepiece_stands_once(root, make_item, tmp_path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((root / "LICENSE").read_text().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("You") == tokenizer.encode(" You")[1:] or "▁You" in str(
        tokenizer.backend.id_to_token(tokenizer.encode("You")[0])
    )
    table = TokenBytes(tokenizer)
    for item in (
        make_item("You may", [" use", " not"]),
        make_item("", ["You may", "The work"]),
        make_item("You may ", ["use", "not"]),
    ):
        (seam,) = heal(tokenizer, [item], 99)
        for choice, ids, first in zip(item.choices, seam.ids_C, seam.first_C, strict=True):
            begin = len(ids) - len(tokenizer.encode(item.context + choice))
            assert table.of(ids[begin:]) == f" {item.context}{choice}".encode()
            assert table.of(ids[first:]).decode().endswith(choice)
    assert seam.crossed == 2
    assert table.of(seam.context_T[seam.first_C[0] :]) == b" "


@pytest.mark.parametrize("mode", MODES)
def test_a_choice_without_a_token_is_refused(tokenizer, make_item, mode) -> None:
    with pytest.raises(StageError, match="toy item 7: choice '' adds no token"):
        list(SEAMS[mode].function(tokenizer, [make_item("You may", [" x", ""])], 99))


def test_too_long_cuts_the_context_and_never_the_answer(tokenizer, make_item) -> None:
    context, choices = "You may not use this work " * 9, [" except", " in any way, except"]
    (whole,), (cut,) = (heal(tokenizer, [make_item(context, choices)], n) for n in (10_000, 30))
    longest = max(len(ids) for ids in cut.ids_C)
    assert longest == 31  # the last token is not read
    lost = cut.cut_C[0]
    assert cut.cut_C == (lost, lost) == (whole.first_C[0] - cut.first_C[0],) * 2
    for before, after in zip(whole.ids_C, cut.ids_C, strict=True):
        assert after == [before[0], *before[1 + lost :]]
    assert cut.context_T == [whole.context_T[0], *whole.context_T[1 + lost :]]
    assert shorten(whole, lost) == cut


def test_an_answer_longer_than_the_context_is_read_behind_one_token(tokenizer, make_item) -> None:
    """As far as the model reaches; beyond, it is named."""
    context = "You may not use this work " * 9
    item = make_item(context, [context])
    for mode in SEAMS.values():
        (seam,) = mode.function(tokenizer, [item], 3)
        assert seam.first_C == (1,)
        read = len(seam.ids_C[0]) - 1
        check_lengths([item], [seam], read)
        with pytest.raises(StageError, match=f"item 7: a choice has {read} tokens, and the model"):
            check_lengths([item], [seam], read - 1)


def test_lm_eval_cuts_each_choice_for_itself_and_the_prefix_too(tokenizer, make_item) -> None:
    item = make_item("You may not use this work " * 9, [" except", " in any way, except"])
    (whole,), (cut,) = (lm_eval(tokenizer, [item], n) for n in (10_000, 30))
    assert [ids[-31:] for ids in whole.ids_C] == list(cut.ids_C)
    assert cut.cut_C[0] < cut.cut_C[1]


def test_without_a_prefix_the_first_token_is_scored_too(tokenizer, make_item) -> None:
    bare = replace(tokenizer, bos_id=None, eos_id=None)
    (seam,) = heal(bare, [make_item("", ["You", "may"])], 99)
    assert seam.first_C == (0, 0)
    assert not seam.has_prefix
