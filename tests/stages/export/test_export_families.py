"""Every family leaves as a transformers folder; llama.cpp files only where they are proven."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pocketlm.choices import check_choices
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import UserError
from pocketlm.model.checkpoint import load_child, save_child
from pocketlm.model.child import Child
from pocketlm.model.family import tensors_of
from pocketlm.pipeline import make
from pocketlm.recipe import load_recipe
from pocketlm.stages.export import check_formats, export


@pytest.fixture
def dressed(tokenizer: Tokenizer, family_parent: Callable[..., Path]) -> Callable[[str], Child]:
    """A family's child with as many rows as the tokenizer has tokens."""

    def dress(variant: str) -> Child:
        child = load_child(family_parent(variant))
        num_tokens, rng = tokenizer.num_tokens, torch.Generator().manual_seed(1)
        tensors = dict(child.tensors)
        for placed in tensors_of(child.shape):
            if placed.row.axes[0] == "vocab":
                tensors[placed.name] = torch.randn(num_tokens, child.shape.hidden, generator=rng)
        return Child(config={**child.config, "vocab_size": num_tokens}, tensors=tensors)

    return dress


def test_transformers_reads_every_family(variant, dressed, tokenizer, texts, tmp_path) -> None:
    files = export(
        dressed(variant),
        tokenizer,
        tmp_path,
        formats=["huggingface"],
        check_texts=texts[:3],  # transformers reads any tokenizer of a qwen2 with Qwen's own rules
        lineage={"recipe": "pico"},
    ).files
    assert files[0].verified.startswith("strict keys, logits bit-equal")


@pytest.mark.parametrize("name", ["olmo2", "gpt_neox"])
def test_gguf_of_other_families_is_refused_by_name(name, dressed, tokenizer, tmp_path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    message = f"no gguf files for family '{name}'; it has llama, mistral, qwen2, qwen3, smollm3$"
    with pytest.raises(UserError, match=message):
        export(dressed(name), tokenizer, tmp_path, formats=["gguf-f16"], check_texts=[], lineage={})
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        check_formats(["huggingface", "gguf-q8_0"], name)
    check_formats(["huggingface"], name)


def test_a_recipe_without_a_parent_is_refused_at_once(root: Path) -> None:
    recipe = load_recipe(root / "recipes" / "demo-parent.toml")
    table = recipe.export.model_copy(update={"formats": ("gguf-f16",)})
    recipe = recipe.model_copy(update={"export": table})
    check_choices(recipe)
    with pytest.raises(UserError, match="no gguf files for family 'olmo2'"):
        check_choices(recipe.model_copy(update={"family": "olmo2"}))


def test_a_recipe_with_a_parent_is_refused_before_anything_is_made(
    dressed, tokenizer, tiny_recipe: Path, tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    save_child(dressed("olmo2"), parent)
    tokenizer.save(parent)
    changes = {"parent": str(parent), "export.formats": ["gguf-f16"]}
    recipe = load_recipe(tiny_recipe, changes=changes)
    with pytest.raises(UserError, match="no gguf files for family 'olmo2'"):
        make(recipe, out=tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("manifest.json"))


@pytest.mark.parametrize("variant", ["llama-biases"])
def test_biases_of_a_llama_reach_llama_cpp(variant, dressed, tokenizer, texts, tmp_path) -> None:
    """Head by head reordered like their rows, and used: llama.cpp continues as the child does."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    child = dressed(variant)
    delivered = export(
        child, tokenizer, tmp_path, formats=["gguf-f16"], check_texts=texts, lineage={}
    ).files[0]
    checks = {check.name: check.value for check in delivered.checks}
    assert checks["greedy_as_child"] > 0.9
    plain = replace(
        child, tensors={n: t * ("bias" not in n) for n, t in child.tensors.items()}
    ).network()
    ids = torch.tensor([tokenizer.encode(texts[0])[:40]])
    changed = plain(ids).logits.argmax(-1) != child.network()(ids).logits.argmax(-1)
    assert changed.float().mean() > 0.5


PLAIN = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "layer_types": None},
    "qwen3": {},
    "smollm3": {
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": None,
        "no_rope_layers": [1, 1, 1, 0],
    },
}
"""Families beside llama, and what of their test configs llama.cpp cannot run, taken out."""


@pytest.mark.parametrize("name", PLAIN)
def test_llama_cpp_runs_the_other_families(name, dressed, tokenizer, texts, tmp_path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    child = dressed(name)
    child = replace(child, config={**child.config, **PLAIN[name]})
    delivered = export(
        child, tokenizer, tmp_path, formats=["gguf-f32"], check_texts=texts, lineage={}
    ).files[0]
    checks = {check.name: check.value for check in delivered.checks}
    assert checks["greedy_as_child"] > 0.95
    assert checks["greedy_gap"] < 5e-3
    assert checks["probability_gap"] < 0.02  # these logits spread over 10 and more


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {}, r"a mistral that looks back 8 of its 64 tokens"),
        ("qwen2", {}, r"a qwen2 that looks back 8 of its 64 tokens"),
        ("qwen3-biases", PLAIN["qwen2"], r"qwen3 with attention_bias: llama.cpp reads no such"),
        ("smollm3", {**PLAIN["smollm3"], "no_rope_layers": [0, 1, 1, 1]}, r"layers \[0\].*\[3\]"),
        ("qwen3", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 32}}, "'llama3'"),
    ],
)  # fmt: skip
def test_what_an_architecture_does_not_read_is_refused(name, changes, message, dressed) -> None:
    config = {**dressed(name).config, **changes}
    if "rope_scaling" in changes:
        config.pop("rope_parameters", None)
    with pytest.raises(UserError, match=message) as error:
        check_formats(["gguf-f16"], config["model_type"], config)
    assert "\n" not in str(error.value)


def test_a_parent_may_lose_the_layers_that_are_in_the_way(dressed) -> None:
    config = {**dressed("smollm3").config, **PLAIN["smollm3"], "no_rope_layers": [0, 1, 1, 1]}
    check_formats(["gguf-f16"], "smollm3", config, layers_may_leave=True)
    # Without such layers it is a llama, biases and all.
    config |= {"no_rope_layers": [1, 1, 1, 1], "attention_bias": True}
    check_formats(["gguf-f16"], "smollm3", config)
