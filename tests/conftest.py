"""What every test may use: the shared data, a tiny parent, and no network."""

import json
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
# One thread: tiny matrices gain nothing from more, and waiting threads slow a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine is an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in (
            "127.0.0.1",
            "::1",
            "localhost",
        )
        if not local:
            raise OSError(f"tests are offline; tried to connect to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared data sets; the test is skipped where they are not."""
    given = os.environ.get("POCKETLM_SHARED_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}; set POCKETLM_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def load_shared(shared_data: Path) -> Callable[[str], Any]:
    """Read a tokenizer of the shared data by its path there; each is read once a run."""
    from pocketlm.corpus.tokenizer_files import load_tokenizer

    return cache(lambda name: load_tokenizer(shared_data / name))


@pytest.fixture(scope="session")
def load_small(load_shared: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same, cut to its first 8,000 tokens and all characters where it has more than 22,000:
    for tests that write or rebuild it."""
    from pocketlm.stages.compact.rebuild import alphabet, rebuild

    def small(name: str) -> Any:
        tokenizer = load_shared(name)
        if tokenizer.num_tokens <= 22_000:
            return tokenizer
        pieces = tokenizer.backend.get_vocab()
        added = tokenizer.backend.get_added_tokens_decoder()
        characters = (i for piece, i in pieces.items() if len(piece) == 1)
        kept = {*range(8_000), *added, *characters, *alphabet(tokenizer)}
        return rebuild(tokenizer, np.array(sorted(kept)))

    return cache(small)


@pytest.fixture(scope="session")
def tiny_parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama checkpoint folder: 2 layers x 32, 4/2 heads of 16, ffn 64, about 400 tokens, tied.

    The tokenizer is trained on LICENSE, the one text here that never changes, and the weights are
    wider spread than usual, so that greedy tokens differ from each other.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-parent")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=[end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator((ROOT / "LICENSE").read_text().splitlines(True), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=end, eos_token=end, model_max_length=256
    ).save_pretrained(folder)

    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6},
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {"head_dim": 16},
    "qwen3-biases": {
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
    "smollm3": {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 8},
    "smollm3-biases": {"attention_bias": True, "mlp_bias": True, "no_rope_layers": [0, 1, 1, 0]},
    "olmo2": {},
    "olmo2-biases": {"attention_bias": True, "num_key_value_heads": 6},
    "gpt_neox": {},
    "gpt_neox-plain": {
        "attention_bias": False,
        "use_parallel_residual": False,
        "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0},
    },
}
"""Every family, with its switches and patterns of layers: name -> what its config says besides."""


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """A name of VARIANTS."""
    return str(request.param)


@pytest.fixture(scope="session")
def family_parent(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`family_parent(variant, tied=..., dtype=..., shards=...)`: a checkpoint as transformers
    itself writes it: 4 layers x 48, 6/3 heads of 8, ffn 40, 60 tokens.

    Weights are wide, gains and biases far from one and zero, so that losing any changes logits.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    @cache
    def make(variant: str, *, tied: bool = False, dtype: str = "float32", shards: int = 1) -> Path:
        family = variant.partition("-")[0]
        sizes = {
            "vocab_size": 60,
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
        }
        if family != "gpt_neox":
            sizes |= {"num_key_value_heads": 3, "head_dim": 8}
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
        said = {**sizes, **ids, "tie_word_embeddings": tied, **VARIANTS[variant]}
        config = AutoConfig.for_model(family, **said)
        rng = torch.Generator().manual_seed(0)
        folder = tmp_path_factory.mktemp(variant)
        with torch.random.fork_rng():
            network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        with torch.no_grad():
            for parameter in network.parameters():
                matrix = parameter.dim() > 1
                parameter.copy_(
                    torch.randn(parameter.shape, generator=rng) * (0.2 if matrix else 0.3)
                )
            for name, parameter in network.named_parameters():
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1.0)
        size = sum(p.nbytes for p in network.parameters())
        network.save_pretrained(folder, max_shard_size=f"{size // shards // 1000 + 1}KB")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 short documents of words out of LICENSE, as .jsonl: 20 or so in either small split."""
    words = sorted(set((ROOT / "LICENSE").read_text().split()))
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "tiny.jsonl"
    texts = (" ".join(rng.choice(words, size=12)) for _ in range(900))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def tiny_recipe(
    tmp_path_factory: pytest.TempPathFactory, tiny_parent: Path, tiny_text: Path
) -> Path:
    """A recipe of all six stages that takes a second or two."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(
        f"""
name = "tiny"
parent = {json.dumps(str(tiny_parent))}
[corpus]
files = [{json.dumps(str(tiny_text))}]
[compact]
vocab_size = 330
[design]
max_params = 17_000
[train]
seq_len = 32
batch_tokens = 256
learning_rate = 1e-2
checkpoint_seconds = 0.5
[evaluate]
speed_tokens = 4
sample_tokens = 8
"""
    )
    return path
