"""Scores equal those of one choice at a time, whatever is shared, padded or batched."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import RecipeError, StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.stages.evaluate import choice as choice_file
from pocketlm.stages.evaluate import reader as reader_file
from pocketlm.stages.evaluate import trees
from pocketlm.stages.evaluate.choice import Reading, score_items
from pocketlm.stages.evaluate.seam import heal
from pocketlm.stages.evaluate.trees import batches, tree_of

HOW = Reading(context_tokens=400)


@pytest.fixture(scope="module")
def items(texts, make_item):
    """Long and short contexts, few-shot ones that begin alike, letters, no context, one choice."""
    shots = texts[0][:300]
    few = [make_item(f"{shots}\n\nQuestion {i}: {texts[0][i:i * 9]}\nAnswer:", [" A", " B", " C"])
           for i in range(5)]  # fmt: skip
    return [
        *few,
        make_item(texts[0][:200], [" a", " of the licence", " that is, without"]),
        make_item("", ["You may not", "You may", "naïve 中文"]),
        make_item("You may ", ["use", "not use it"]),
        make_item(texts[5], [" x"]),
        make_item(texts[0][:90], [" twice", " twice"]),
        *(make_item(f"{shots} {i}", [" shared or not", " shared"]) for i in range(4)),
    ]


def _naive(network, tokenizer, item):
    """One forward pass a choice: - ln p(a | c), the seam healed over the whole vocabulary."""
    (seam,) = heal(tokenizer, [item], 10_000)
    told = []
    for ids in seam.ids_C:
        with torch.inference_mode():
            told.append(network(torch.tensor([ids])).logits[0].double().log_softmax(-1))
    sums = [
        sum(logs[place - 1, ids[place]].item() for place in range(first, len(ids)))
        for logs, ids, first in zip(told, seam.ids_C, seam.first_C, strict=True)
    ]
    rest = 0.0
    for number, (k, place, ids) in enumerate(seam.passes):
        path = range(seam.first_C[k], place)
        inside = sum(told[k][at - 1, seam.ids_C[k][at]].item() for at in path)
        rest += math.exp(inside) * told[k][place - 1, ids].exp().sum().item()
        assert rest > 0, number
    return [(math.log(rest) if rest else 0.0) - own for own in sums]


def _nats(scores):
    return [nats for record in scores.records for nats in record.nats]


def test_every_choice_equals_its_own_forward_pass(network, tokenizer, items) -> None:
    expected = [nats for item in items for nats in _naive(network, tokenizer, item)]
    shared = score_items(network, tokenizer, items, how=HOW)
    scratch = score_items(network, tokenizer, items, how=replace(HOW, share=False))
    np.testing.assert_allclose(_nats(shared), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(_nats(scratch), expected, rtol=1e-5, atol=1e-5)
    assert scratch.tokens_read == scratch.tokens_alone == shared.tokens_alone
    assert shared.tokens_read < shared.tokens_alone / 3


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "pangu_pi", "smollm3"])
def test_families_read_trees(random_network, tokenizer, items, family) -> None:
    network = random_network(family, tokenizer.num_tokens)
    few = items[2:8]
    expected = [nats for item in few for nats in _naive(network, tokenizer, item)]
    found = score_items(network, tokenizer, few, how=HOW)
    np.testing.assert_allclose(_nats(found), expected, rtol=1e-5, atol=1e-5)
    assert found.tokens_read < found.tokens_alone / 2


@pytest.mark.parametrize(
    ("family", "config"),
    [("mistral", {"sliding_window": 24}), ("bloom", {}), ("gpt2", {"n_positions": 512})],
)
def test_networks_that_cannot_share_are_read_plainly(
    random_network, tokenizer, items, family, config
) -> None:
    network = random_network(family, tokenizer.num_tokens, **config)
    few = items[5:8]
    expected = [nats for item in few for nats in _naive(network, tokenizer, item)]
    found = score_items(network, tokenizer, few, how=HOW)
    np.testing.assert_allclose(_nats(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 60, 300, 10**6])
def test_batches_and_padding_change_nothing(network, tokenizer, items, batch_tokens) -> None:
    alone = [n for i in items for n in _nats(score_items(network, tokenizer, [i], how=HOW))]
    how = replace(HOW, batch_tokens=batch_tokens)
    np.testing.assert_allclose(_nats(score_items(network, tokenizer, items, how=how)), alone, 1e-5)


def test_the_order_of_choices_and_items_changes_nothing(network, tokenizer, items) -> None:
    turned = [replace(item, choices=item.choices[::-1], places=item.places[::-1]) for item in items]
    first = score_items(network, tokenizer, items, how=HOW).records
    second = score_items(network, tokenizer, turned[::-1], how=HOW).records[::-1]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one.nats, other.nats[::-1], rtol=1e-5)
        assert one.num_bytes == other.num_bytes[::-1]
        assert one.gold == len(other.nats) - 1 - other.gold
    twice = first[-5].nats
    assert twice[0] == pytest.approx(twice[1], rel=1e-6)


def test_slices_of_items_and_of_the_head_change_nothing(
    network, tokenizer, items, monkeypatch
) -> None:
    whole = _nats(score_items(network, tokenizer, items, how=HOW))
    monkeypatch.setattr(choice_file, "ITEMS_AT_ONCE", 2)
    monkeypatch.setattr(reader_file, "LOGITS_AT_ONCE", 1)
    np.testing.assert_allclose(_nats(score_items(network, tokenizer, items, how=HOW)), whole, 1e-5)


def test_bfloat16_is_near_float32(network, tokenizer, items) -> None:
    exact = _nats(score_items(network, tokenizer, items, how=HOW))
    cast = _nats(score_items(network, tokenizer, items, how=replace(HOW, autocast=True)))
    np.testing.assert_allclose(cast, exact, rtol=0.03, atol=0.05)
    assert cast != exact


def test_healing_divides_by_all_that_carries_the_context_on(
    random_network, spanning, make_item
) -> None:
    network = random_network("llama", spanning.num_tokens)
    item = make_item("答案：", ["A", "B", "一", "A。"])
    (record,) = score_items(network, spanning, [item], how=HOW).records
    assert record.seam == 3
    np.testing.assert_allclose(record.nats, _naive(network, spanning, item), rtol=1e-5)
    letters = make_item("答案：", [chr(i) for i in range(33, 127)])
    (record,) = score_items(network, spanning, [letters], how=HOW).records
    assert 0 < math.fsum(math.exp(-nats) for nats in record.nats) < 1 + 1e-6  # they exclude another


@settings(max_examples=25, deadline=None)
@given(
    st.text("答案：ABC y", max_size=6),
    st.lists(st.text("：ABC y", min_size=1, max_size=3), min_size=1),
)
def test_healed_nats_are_those_of_probabilities(
    random_network, spanning, make_item, context, choices
) -> None:
    network = random_network("llama", spanning.num_tokens)
    item = make_item(context, choices[:4])
    (record,) = score_items(network, spanning, [item], how=HOW).records
    assert all(nats >= 0 for nats in record.nats)
    naive = _naive(network, spanning, item)
    np.testing.assert_allclose(record.nats, naive, rtol=1e-5, atol=1e-5)


def test_bytes_do_not_depend_on_the_tokenizer(network, tokenizer, items, texts) -> None:
    other = train_tokenizer(iter(texts), vocab_size=260)
    first = score_items(network, tokenizer, items, how=HOW).records
    second = score_items(network, other, items, how=replace(HOW, context_tokens=2000)).records
    for one, another, item in zip(first, second, items, strict=True):
        sizes = tuple(len(choice.encode()) for choice in item.choices)
        assert one.num_bytes == another.num_bytes == sizes
        bare = (choice.removeprefix(" ") for choice in item.choices)  # lm-eval counts no delimiter
        assert one.num_characters == tuple(map(len, bare))
        assert one.prompt_sha256 == another.prompt_sha256
    assert [r.tokens for r in first] != [r.tokens for r in second]


def test_a_fair_network_gives_each_token_the_same(network, tokenizer, items) -> None:
    fair = type(network)(network.config).eval()
    for parameter in fair.parameters():
        torch.nn.init.zeros_(parameter)
    for record in score_items(fair, tokenizer, items[:7], how=HOW).records:
        each = np.log(network.config.vocab_size)
        np.testing.assert_allclose(record.nats, each * np.array(record.tokens), rtol=1e-6)


def test_without_a_prefix_the_first_token_is_uniform(network, tokenizer, make_item) -> None:
    bare = replace(tokenizer, bos_id=None, eos_id=None)
    one, two = tokenizer.encode("x"), tokenizer.encode("You may")
    item = make_item("", ["x", "You may"])
    (record,) = score_items(network, bare, [item], how=HOW).records
    uniform = math.log(tokenizer.num_tokens)
    with torch.inference_mode():
        logs = network(torch.tensor([two])).logits[0].double().log_softmax(-1)
    rest = -logs[:-1].gather(1, torch.tensor(two)[1:, None]).sum().item()
    assert len(one) == 1
    np.testing.assert_allclose(record.nats, [uniform, uniform + rest], rtol=1e-6)
    assert record.context_tokens == 0


def test_a_cut_context_is_counted_and_scored_as_cut(network, tokenizer, texts, make_item) -> None:
    item = make_item(texts[0], [" except", " or not at all"])
    (seam,) = heal(tokenizer, [item], 40)
    (record,) = score_items(network, tokenizer, [item], how=Reading(context_tokens=40)).records
    assert record.context_cut == seam.cut_C[0] > 0
    assert record.context_tokens + record.context_cut == len(tokenizer.encode(texts[0]))
    ids = seam.ids_C[1]
    with torch.inference_mode():
        logs = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -sum(logs[t - 1, ids[t]].item() for t in range(seam.first_C[1], len(ids)))
    assert record.nats[1] == pytest.approx(expected, rel=1e-5)


def test_a_broken_network_is_said_out_loud(network, tokenizer, items) -> None:
    broken = type(network)(network.config).eval()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(StageError, match="toy item 7: the network gives nan nats to choice ' A'"):
        score_items(broken, tokenizer, items[:1], how=HOW)


def test_logits_that_are_not_the_heads_are_refused(network, tokenizer, items, monkeypatch) -> None:
    plain = type(network).forward

    def capped(self, *args, **options):
        out = plain(self, *args, **options)
        out.logits = out.logits.tanh()
        return out

    monkeypatch.setattr(type(network), "forward", capped)
    with pytest.raises(StageError, match="LlamaForCausalLM caps or scales"):
        score_items(network, tokenizer, items[:1], how=HOW)


def test_an_unknown_seam_is_named(network, tokenizer, items) -> None:
    with pytest.raises(RecipeError, match="did you mean 'heal'"):
        score_items(network, tokenizer, items[:1], how=replace(HOW, seam="heel"))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9))
def test_batches_hold_every_tree_once_and_share_what_all_begin_with(rows) -> None:
    before, trees.LEAST_SAVED = trees.LEAST_SAVED, 1
    try:
        made = [tree_of([row, row[:-1]], owner=i, first=len(row)) for i, row in enumerate(rows)]
        found = list(batches(made, 12, longest_shared=10))
    finally:
        trees.LEAST_SAVED = before
    assert sorted(tree.owner for batch in found for tree in batch.trees) == list(range(len(rows)))
    for batch in found:
        heads = {tuple(tree.trunk[: batch.shared]) for tree in batch.trees}
        assert len(heads) == 1
        assert all(batch.shared < tree.first for tree in batch.trees)
        assert not batch.shared or all(tree.size <= 10 for tree in batch.trees)
        assert max(tree.size for tree in batch.trees) - batch.shared == batch.width


def test_a_real_model_shares_what_it_reads(shared_data, make_item) -> None:
    folder = shared_data / "models" / "tinystories-656k"
    network, tokenizer = load_child(folder).network(), load_tokenizer(folder)
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    item = make_item(story + " She said:", [" I love to play", " tax law is hard", " the of a"])
    records = [
        score_items(network, tokenizer, [item], how=replace(HOW, share=share)).records[0]
        for share in (True, False)
    ]
    np.testing.assert_allclose(records[0].nats, records[1].nats, rtol=1e-5)
    assert min(records[0].nats) == records[0].nats[0]
