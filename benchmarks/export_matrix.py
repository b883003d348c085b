"""Every family x kind of tokenizer x format, written and verified: docs/results/export/matrix.*.

`python benchmarks/export_matrix.py [FAMILY]` takes a few minutes, needs the gguf extra, and exits
with 1 if a file that should be delivered is not; a FAMILY as the table names it is tried alone.
Children are small and random, tokenizers are trained on the project's own documents and compacted
to half; real children come on top where they are on disk: POCKETLM_CHILD (a folder), the demo's
parent, and the model in POCKETLM_SHARED_DATA.
"""

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from pocketlm.corpus.documents import Corpus, load_corpus
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import PocketLMError, UserError
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child
from pocketlm.stages.compact import compact
from pocketlm.stages.export import FORMATS, export
from pocketlm.stages.export.k_quants import is_k_quant
from pocketlm.stages.export.vocabulary import QWEN2_SPLIT

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "results" / "export"
DATA = Path(os.environ.get("POCKETLM_SHARED_DATA") or ROOT.parent / "shared" / "data")
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                                     "original_max_position_embeddings": 32}},
    "mistral": {"sliding_window": None},
    "mistral, window": {"sliding_window": 16},
    "qwen2": {},
    "qwen2, tied": {"tie_word_embeddings": True},
    "qwen3": {},
    "qwen3, biases": {"attention_bias": True},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "smollm3, other layers": {"no_rope_layers": [0, 1, 1, 1]},
    "smollm3, all rotary": {"no_rope_layers": [1, 1, 1, 1], "attention_bias": True},
    "olmo2": {},
    "gpt_neox": {},
}  # fmt: skip
TEXTS = ["Once upon a time, it's 1234567 or 12.5%.", "  two  blanks  ", "naïve 中文字符，123。 😀",
         "tabs\tand\r\nlines\n\n\n", "def f(x_1):\n    return x_1**2  # '''"]  # fmt: skip


def main(only: str | None) -> int:
    """Write the two files; 1 where a file failed that should not."""
    OUT.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads((OUT / "matrix.json").read_text()) if only else []
    for more in _rows(only):
        places = {(row["family"], row["tokenizer"], row["format"]): i for i, row in enumerate(rows)}
        for row in more:
            at = places.get((row["family"], row["tokenizer"], row["format"]), len(rows))
            rows[at : at + 1] = [row]
        (OUT / "matrix.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        (OUT / "matrix.md").write_text(_page(rows))
    failed = [row for row in rows if row["result"] == "failed"]
    print(f"{len(rows)} tried, {len(failed)} failed")
    return 1 if failed else 0


def _rows(only: str | None) -> Iterator[list[dict[str, Any]]]:
    """The rows of one child after the other."""
    corpus = load_corpus([str(ROOT / "docs" / "*.md"), str(ROOT / "src" / "**" / "*.py")])
    texts = [*TEXTS, *(text[:300] for text in islice(corpus.texts("train"), 11))]
    tokenizers = {"byte-level": _byte_level(corpus), "SentencePiece": _sentencepiece(corpus)}
    for kind, tokenizer in tokenizers.items():
        for family, said in FAMILIES.items():
            if only not in (None, family):
                continue
            child = _random_child(family.partition(",")[0], tokenizer.num_tokens, said)
            yield list(_tried(family, kind, child, tokenizer, texts))
    for name, folder in _real_children():
        if only not in (None, name):
            continue
        child, tokenizer = load_child(folder), load_tokenizer(folder)
        yield list(_tried(name, "its own", child, tokenizer, texts))


def _tried(
    family: str, kind: str, child: Child, tokenizer: Tokenizer, texts: list[str]
) -> Iterator[dict[str, Any]]:
    for name in (name for name in FORMATS if not is_k_quant(name)):
        row: dict[str, Any] = {"family": family, "tokenizer": kind, "format": name}
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = export(child, tokenizer, Path(folder), formats=[name], check_texts=texts,
                              lineage={}).files[0]  # fmt: skip
                checks = {check.name: round(check.value, 6) for check in file.checks}
                row |= {"result": "verified", "bytes": file.num_bytes, **checks}
            except UserError as refusal:
                row |= {"result": "refused", "why": str(refusal)}
            except PocketLMError as error:
                # transformers reads every tokenizer of a qwen2 with Qwen's own split.
                held_back = "transformers cuts" in str(error) and family.startswith("qwen2")
                row |= {"result": "held back" if held_back else "failed", "why": str(error)}
        print(family, kind, name, row["result"], row.get("why", ""), flush=True)
        yield row


def _random_child(family: str, vocab_size: int, said: dict[str, Any]) -> Child:
    """Wide weights, so that greedy tokens differ; gains and biases far from one and zero."""
    sizes = {key: value for key, value in SIZES.items() if family != "gpt_neox" or "k" not in key}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(family, vocab_size=vocab_size, **{**sizes, **ids, **said})
    rng = torch.Generator().manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 0.2 if parameter.dim() > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape, generator=rng))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return load_child(Path(folder))


def _byte_level(corpus: Corpus) -> Tokenizer:
    """With Qwen's split, which transformers gives to a qwen2 whatever its tokenizer says."""
    trained = train_tokenizer(corpus.texts("train"), vocab_size=1200)
    trained.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _halved(trained, corpus)


def _sentencepiece(corpus: Corpus) -> Tokenizer:
    import sentencepiece

    model = io.BytesIO()
    lines = (line for text in corpus.texts("train") for line in text.splitlines())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=1200,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        minloglevel=2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return _halved(load_tokenizer(path), corpus)


def _halved(tokenizer: Tokenizer, corpus: Corpus) -> Tokenizer:
    return compact(tokenizer, corpus, vocab_size=tokenizer.num_tokens // 2).tokenizer


def _real_children() -> Iterator[tuple[str, Path]]:
    given = os.environ.get("POCKETLM_CHILD")
    folders = {
        "real: given": Path(given) if given else None,
        "real: demo-parent": ROOT / "recipes" / "demo-parent",
        "real: tinystories-656k": DATA / "models" / "tinystories-656k",
    }
    for name, folder in folders.items():
        if folder is not None and (folder / "config.json").is_file():
            yield name, folder


def _page(rows: list[dict[str, Any]]) -> str:
    """A line a child, a column a format; what is refused, once, with its line."""
    names = list(dict.fromkeys(row["format"] for row in rows))
    lines = [
        "# Formats x families x tokenizers",
        "",
        "Made by `make export-matrix`. A number: share of greedy tokens after 16 prompts that are",
        "the child's own, in the format's runtime, once all that docs/6-export.md lists was",
        "verified. Random children sit on near ties far more often than trained ones do.",
        "",
        f"| child | tokenizer | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    children = dict.fromkeys((row["family"], row["tokenizer"]) for row in rows)
    for child in children:
        own = {r["format"]: r for r in rows if (r["family"], r["tokenizer"]) == child}
        lines.append(f"| {' | '.join(child)} | {' | '.join(_cell(own[n]) for n in names)} |")
    refused = {r["why"]: r["family"] for r in rows if r["result"] != "verified"}
    lines += ["", "## Refused before any work, or held back after verification", ""]
    lines += [f"- {family}: {why}" for why, family in refused.items()]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    if row["result"] != "verified":
        return str(row["result"])
    return f"{row['greedy_as_child']:.3f}" if "greedy_as_child" in row else "bit-equal"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
