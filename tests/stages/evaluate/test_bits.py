"""Bits per document: every token once, whatever the batch, the window or the neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.corpus.tokenizer import train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import StageError
from pocketlm.model.checkpoint import load_child
from pocketlm.stages.evaluate import bits
from pocketlm.stages.evaluate.bits import document_bits


def _by_one_forward(network, tokenizer, text: str) -> float:
    ids = torch.tensor([[tokenizer.prefix_id, *tokenizer.encode(text)]])
    with torch.inference_mode():
        logs = network(ids).logits.double().log_softmax(-1)
    return -logs[0, :-1].gather(1, ids[0, 1:, None]).sum().item() / np.log(2)


def test_whole_documents_equal_one_full_forward(network, tokenizer, texts) -> None:
    found = document_bits(network, tokenizer, texts, context=10_000).bits_N
    expected = [_by_one_forward(network, tokenizer, text) for text in texts]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 50, 300, 10**6])
@pytest.mark.parametrize("context", [8, 10_000])
def test_batches_and_padding_change_nothing(
    network, tokenizer, texts, context, batch_tokens
) -> None:
    small = document_bits(network, tokenizer, texts, context=context, batch_tokens=batch_tokens)
    alone = [document_bits(network, tokenizer, [t], context=context).bits_N[0] for t in texts]
    np.testing.assert_allclose(small.bits_N, alone, rtol=1e-6)


@given(
    lengths=st.lists(st.integers(0, 60), max_size=5),
    context=st.integers(2, 40),
)
def test_each_token_is_scored_once_with_half_a_window_before_it(lengths, context) -> None:
    scored = []
    for document, start, stop, first in bits._windows(lengths, context):
        assert stop - start <= context
        assert first == 0 or first - start >= context // 2 - 1
        assert first == 0 or start > 0
        scored += [(document, position + 1) for position in range(first, stop)]
    expected = [(d, t) for d, length in enumerate(lengths) for t in range(1, length)]
    assert sorted(scored) == expected


def test_windows_equal_windows_by_hand(network, tokenizer, texts) -> None:
    ids = [tokenizer.prefix_id, *tokenizer.encode(texts[0])]
    expected, context = 0.0, 16
    for window in bits._windows([len(ids)], context):
        inputs = torch.tensor([ids[window.start : window.stop]])
        targets = torch.tensor(ids[window.first + 1 : window.stop + 1])
        with torch.inference_mode():
            logs = network(inputs).logits[0, window.first - window.start :].log_softmax(-1)
        expected -= logs.gather(1, targets[:, None]).sum().item() / np.log(2)
    found = document_bits(network, tokenizer, texts[:1], context=context).bits_N[0]
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_head_in_slices_gives_the_same(network, tokenizer, texts, monkeypatch) -> None:
    whole = document_bits(network, tokenizer, texts, context=64).bits_N
    monkeypatch.setattr(bits, "LOGITS_AT_ONCE", 1)
    sliced = document_bits(network, tokenizer, texts, context=64).bits_N
    np.testing.assert_allclose(sliced, whole, rtol=1e-6)


def test_bytes_do_not_depend_on_the_tokenizer(network, tokenizer, texts) -> None:
    other = train_tokenizer(iter(texts), vocab_size=260)
    first = document_bits(network, tokenizer, texts, context=64)
    second = document_bits(network, other, texts, context=64)
    assert first.bytes_N.tolist() == second.bytes_N.tolist()
    assert first.bytes_N.tolist() == [len(text.encode()) for text in texts]
    assert first.tokens_N.sum() != second.tokens_N.sum()


def test_a_fair_network_needs_log2_of_the_vocabulary(network, tokenizer, texts) -> None:
    fair = type(network)(network.config).eval()
    for parameter in fair.parameters():
        torch.nn.init.zeros_(parameter)
    found = document_bits(fair, tokenizer, texts, context=64)
    expected = found.tokens_N * np.log2(network.config.vocab_size)
    np.testing.assert_allclose(found.bits_N, expected, rtol=1e-6)


def test_without_a_prefix_the_first_token_is_uniform(network, tokenizer, texts) -> None:
    bare = replace(tokenizer, bos_id=None, eos_id=None)
    assert bare.prefix_id is None
    found = document_bits(network, bare, ["x", ""], context=64)
    assert found.bits_N.tolist() == [np.log2(tokenizer.num_tokens), 0.0]


def test_unknown_tokens_are_counted(network, tokenizer) -> None:
    text = "You may not"
    unknown = replace(tokenizer, unk_id=tokenizer.encode(text)[1])
    counted = document_bits(network, unknown, [text, "x"], context=64).unknown_N
    assert counted[0] >= 1
    assert document_bits(network, tokenizer, [text], context=64).unknown_N.tolist() == [0]


def test_a_broken_network_is_said_out_loud(network, tokenizer) -> None:
    broken = type(network)(network.config).eval()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(StageError, match="nan bits to document 0"):
        document_bits(broken, tokenizer, ["You may"], context=64)


def test_bfloat16_is_near_float32(network, tokenizer, texts) -> None:
    exact = document_bits(network, tokenizer, texts, context=64).bits_N.sum()
    rough = document_bits(network, tokenizer, texts, context=64, autocast=True).bits_N.sum()
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)))
def test_order_of_documents_is_only_their_order(network, tokenizer, texts, order) -> None:
    straight = document_bits(network, tokenizer, texts, context=32).bits_N
    turned = document_bits(network, tokenizer, [texts[i] for i in order], context=32).bits_N
    np.testing.assert_allclose(turned, straight[list(order)], rtol=1e-6)


def test_a_real_model_costs_what_an_independent_forward_pass_says(shared_data) -> None:
    """3.0067 nats a token over 33 tokens: measured in NumPy float64, see the data's README."""
    folder = shared_data / "models" / "tinystories-656k"
    text = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big red ball. She wanted to play with it, but it was too high. "
        'Her mom said, "Lily, let me help you." Lily was happy and they played together all day.'
    )
    real = load_child(folder).network(), load_tokenizer(folder)
    found = document_bits(*real, [text], context=512)
    assert found.tokens_N.tolist() == [33]
    assert found.bits_N[0] * np.log(2) / 33 == pytest.approx(3.0067, abs=1e-4)
