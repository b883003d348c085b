"""A tiny child, its tokenizer, texts to check with, and the files made from them once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.model.child import Child
from pocketlm.stages.export import Delivered, export


@dataclass(frozen=True)
class Files:
    """What one call of `export` left behind."""

    folder: Path
    by_format: dict[str, Delivered]
    scores: dict

    def path(self, kind: str) -> Path:
        return self.folder / self.by_format[kind].path


@pytest.fixture(scope="session")
def child(tiny_parent: Path) -> Child:
    return load_child(tiny_parent)


@pytest.fixture(scope="session")
def tokenizer(tiny_parent: Path) -> Tokenizer:
    return load_tokenizer(tiny_parent)


@pytest.fixture(scope="session")
def texts(root: Path) -> list[str]:
    licence = (root / "LICENSE").read_text()
    return [
        licence[:400],
        licence[2000:2300],
        "  two  blanks  ",
        "naïve 中文 😀 e\u0301",
        "<|endoftext|> is text here",
        "tabs\tand\r\nlines\n\n\n",
        "It's 1234567, DON'T",
        "",
    ]


@pytest.fixture(scope="session")
def files(child, tokenizer, texts, tmp_path_factory) -> Files:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("exported")
    exported = export(
        child,
        tokenizer,
        folder,
        formats=["huggingface", "gguf-f16", "gguf-q8_0"],
        check_texts=texts,
        lineage={"recipe": "pico", "parent": "a|b", "train key": "0123"},
    )
    return Files(folder, {file.format: file for file in exported.files}, exported.scores)


@pytest.fixture(scope="session")
def narrow_child(child: Child) -> Child:
    """The child with an FFN of 48, which is no multiple of 32."""
    tensors = {}
    for name, tensor in child.tensors.items():
        cut = tensor[:, :48] if "down_proj" in name else tensor
        tensors[name] = (tensor[:48] if "gate" in name or "up" in name else cut).contiguous()
    return Child(config={**child.config, "intermediate_size": 48}, tensors=tensors)
