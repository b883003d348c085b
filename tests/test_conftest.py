"""The fixtures keep what they promise."""

import socket
from pathlib import Path

import pytest


def test_the_network_is_closed() -> None:
    with socket.socket() as outside, pytest.raises(OSError, match="tests are offline"):
        outside.connect(("192.0.2.1", 80))  # an address kept for documentation: nobody is there


def test_this_machine_is_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_the_tiny_parent_is_a_model_with_its_tokenizer(tiny_parent: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_parent, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_parent, local_files_only=True)
    text = "Licensed under the Apache License, naïve 语言\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == model.config.vocab_size == 400
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 32)
    assert model.lm_head.weight is model.get_input_embeddings().weight
