"""What is written equals greedy writing one at a time, and ends where it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pocketlm.corpus.tokenizer import train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.timing import greedy_tokens
from pocketlm.stages.evaluate.choice import Reading, score_items
from pocketlm.stages.evaluate.seam import heal
from pocketlm.stages.evaluate.writing import Pen, text_of, write_items

HOW = Reading(context_tokens=250)
ENDLESS = Pen(new_tokens=9, stops=())


@pytest.fixture(scope="module")
def items(texts, make_item):
    """Articles of different lengths, one ending in a blank, one that is empty."""
    contexts = [texts[0][:n] for n in (300, 20, 120, 121, 64)] + ["You may ", ""]
    return [
        make_item(context, [" a summary of it"], form="generation", reference="a summary of it")
        for context in contexts
    ]


def _alone(network, tokenizer, item, new_tokens):
    (seam,) = heal(tokenizer, [item], 10_000)
    new = greedy_tokens(network, seam.context_T, new_tokens=new_tokens, stop=tokenizer.eos_id)
    return text_of(tokenizer, seam, new, replace(ENDLESS, new_tokens=new_tokens))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "pangu_pi"])
def test_rows_side_by_side_write_as_each_alone(random_network, tokenizer, items, family) -> None:
    network = random_network(family, tokenizer.num_tokens)
    found = write_items(network, tokenizer, items, how=HOW, pen=ENDLESS).records
    assert [r.written for r in found] == [_alone(network, tokenizer, i, 9) for i in items]
    assert len({r.written for r in found}) > 1
    scored = score_items(network, tokenizer, items, how=HOW).records
    np.testing.assert_allclose([r.nats for r in found], [r.nats for r in scored], rtol=1e-5)
    assert [replace(r, nats=()) for r in scored] == [
        replace(r, nats=(), written=None, reference=None) for r in found
    ]
    assert found[0].reference == "a summary of it"


@pytest.mark.parametrize("how", [replace(HOW, share=False), replace(HOW, seam="lm-eval")])
def test_the_way_of_reading_changes_no_word(network, tokenizer, items, how) -> None:
    first = write_items(network, tokenizer, items[:5], how=HOW, pen=ENDLESS)
    second = write_items(network, tokenizer, items[:5], how=how, pen=ENDLESS)
    assert [r.written for r in first.records] == [r.written for r in second.records]
    assert first.tokens_alone == second.tokens_alone
    assert first.tokens_read < second.tokens_read or how.share
    assert how.share or second.tokens_read == second.tokens_alone


def test_rows_end_one_by_one_at_their_stops(network, tokenizer, items) -> None:
    endless = write_items(network, tokenizer, items, how=HOW, pen=Pen(new_tokens=30, stops=()))
    longest = max((record.written for record in endless.records), key=len)
    stop = longest[6:8]  # two characters, wherever tokens begin
    pen = Pen(new_tokens=30, stops=(stop,))
    found = write_items(network, tokenizer, items, how=HOW, pen=pen)
    expected = [record.written.partition(stop)[0].rstrip() for record in endless.records]
    assert [record.written for record in found.records] == expected
    assert found.tokens_read < endless.tokens_read


def test_the_end_token_ends_a_row(random_network, texts, items) -> None:
    tokenizer = train_tokenizer(iter(texts), vocab_size=300)
    assert tokenizer.adds_bos  # so another end token leaves the prefix as it is
    network = random_network("llama", tokenizer.num_tokens)
    endless = write_items(network, tokenizer, items, how=HOW, pen=ENDLESS).records
    place = max(range(len(items)), key=lambda i: len(endless[i].written))
    (seam,) = heal(tokenizer, [items[place]], 250)
    new = greedy_tokens(network, seam.context_T, new_tokens=9)
    ending = replace(tokenizer, eos_id=next(t for t in new if t != new[0]))
    (record,) = write_items(network, ending, [items[place]], how=HOW, pen=ENDLESS).records
    assert record.written == text_of(tokenizer, seam, new[: new.index(ending.eos_id)], ENDLESS)
    assert record.written != endless[place].written


def test_text_is_decoded_behind_its_context_and_cut_at_a_stop(tokenizer, make_item) -> None:
    (seam,) = heal(tokenizer, [make_item("You may", [" x"])], 99)

    def text(written: str, pen: Pen, drop: int = 0) -> str:
        ids = tokenizer.encode(written)
        return text_of(tokenizer, seam, ids[: len(ids) - drop], pen)

    lines = Pen(new_tokens=99)
    assert text(" not use 中文, naïve\nthe rest", lines) == "not use 中文, naïve"
    assert text("\n \n first line\nsecond", lines) == "first line"
    assert text("\n\n", lines) == ""
    assert text("one two END three", Pen(new_tokens=99, stops=("three", "wo E"))) == "one t"
    assert len(tokenizer.encode("中")) == 3
    assert text("a中", Pen(new_tokens=3), drop=1) == "a"  # cut inside a character
    assert text_of(tokenizer, seam, [], lines) == ""


def test_a_context_leaves_room_for_what_is_written(network, tokenizer, texts, make_item) -> None:
    item = make_item(texts[0], [" short"], form="generation", reference="short")
    how = Reading(context_tokens=50)
    (record,) = write_items(network, tokenizer, [item], how=how, pen=ENDLESS).records
    whole = tokenizer.encode(texts[0])
    kept = [tokenizer.prefix_id, *whole[record.context_cut :]]
    assert len(kept) == 1 + record.context_tokens == 50 - 8  # the last new token is not read
    (seam,) = heal(tokenizer, [make_item(texts[0], [" short"])], 10_000)
    new = greedy_tokens(network, kept, new_tokens=9, stop=tokenizer.eos_id)
    assert record.written == text_of(tokenizer, seam, new, ENDLESS)
    ids = [*kept, *tokenizer.encode(" short")]
    with torch.inference_mode():
        logs = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -sum(logs[t - 1, ids[t]].item() for t in range(len(kept), len(ids)))
    assert record.nats[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(StageError, match="item 7: 60 new tokens, and the model reads 50"):
        write_items(network, tokenizer, [item], how=how, pen=Pen(new_tokens=60))


def test_a_broken_network_is_said_out_loud(network, tokenizer, items) -> None:
    broken = type(network)(network.config).eval()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(StageError, match="toy item 7: the network gives nan nats"):
        write_items(broken, tokenizer, items[:1], how=HOW, pen=ENDLESS)


def test_a_real_model_goes_on_with_a_story(shared_data, make_item) -> None:
    folder = shared_data / "models" / "tinystories-656k"
    network, tokenizer = load_child(folder).network(), load_tokenizer(folder)
    story = "Once upon a time, there was a little girl named Lily. She loved to play"
    item = make_item(story, [" outside."], form="generation", reference="outside.")
    (record,) = write_items(network, tokenizer, [item], how=HOW, pen=ENDLESS).records
    assert record.written.startswith("all day. One day, she")
