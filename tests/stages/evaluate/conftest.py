"""A tiny network with its tokenizer, and texts that are awkward in the usual ways."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.model.network import register_own_class
from pocketlm.stages.evaluate.items import Form, Item, Question


@pytest.fixture(scope="session")
def network(tiny_parent: Path):
    return load_child(tiny_parent).network()


@pytest.fixture(scope="session")
def tokenizer(tiny_parent: Path) -> Tokenizer:
    return load_tokenizer(tiny_parent)


@pytest.fixture(scope="session")
def texts(root: Path) -> list[str]:
    """Long, short, empty, one character, and beyond ASCII."""
    licence = (root / "LICENSE").read_text() or "the licence of the work " * 99
    return [licence[:700], "You", "", "x", "naïve 中文", licence[100:300]]


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Item]:
    """`make_item(context, choices, gold=0, form=..., reference=...)`: an item of task `toy`."""

    def make(
        context: str, choices: Sequence[str], *, gold: int = 0, form: Form = "cloze", **more: str
    ) -> Item:
        known = {"id": "7", "part": "all", "cluster": "7", "text": "", **more}
        question = Question(options=tuple(choices), gold=gold, **known)
        return Item(
            task="toy",
            form=form,
            question=question,
            context=context,
            choices=tuple(choices),
            places=tuple(range(len(choices))),
        )

    return make


@pytest.fixture(scope="session")
def spanning() -> Tokenizer:
    """Byte-level BPE without a pre-tokenizer: pieces span words, so `：A` and `: y` are tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>"],
        show_progress=False,
    )
    lines = ["答案：A", "答案：B", "答案：C", "Answer: yes", "Answer: no"]
    backend.train_from_iterator(lines * 9, trainer)
    roles = {"bos_token": "<s>", "eos_token": "<s>"}
    return tokenizer_from_document(json.loads(backend.to_str()), roles=roles)


@pytest.fixture(scope="session")
def random_network() -> Callable[..., Any]:
    """`random_network(family, vocab_size, **config)`: 2 layers x 32 with wide random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    @cache
    def make(family: str, vocab_size: int, **config: Any) -> Any:
        register_own_class(family)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "max_position_embeddings": 512}
        if family != "gpt_neox":
            heads["num_key_value_heads"] = 2
        sizes |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        said = {"vocab_size": vocab_size, "initializer_range": 0.2, **sizes, **heads, **config}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **said)).eval()

    return make


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small benchmarks made up here, in the layouts that are read."""
    folder = tmp_path_factory.mktemp("benchmarks")
    boolq = [
        {"question": f"is stone {n} heavy", "passage": f"Stone {n} weighs {n} pounds.", "idx": n,
         "label": "true" if n % 3 else "false"}
        for n in range(12)
    ]  # fmt: skip
    piqa = [
        {"goal": f"Mix {n} eggs", "sol1": f"Stir them {n} times.", "sol2": "Leave them.",
         "label": n % 2}
        for n in range(9)
    ]  # fmt: skip
    xsum = [{"document": f"It rained in town {n}.", "summary": f"Rain {n}."} for n in range(2)]
    for name, rows in (("boolq.val", boolq), ("piqa", piqa), ("xsum", xsum)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder
