"""Two small tokenizers of the two families, and a corpus that lives in memory."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketlm.corpus.documents import SPLITS, Document, Survey
from pocketlm.corpus.files import TextFile
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer

CHINESE = (
    "小模型也要读书。词表越大，嵌入层越重；词表越小，句子越长。\n"
    "我们先数一数每个词用了多少次，再留下最常用的词，最后检查一遍。\n"
    "数据不会说谎，但是会迷路：所以每一个数字都要有单位和来源。\n"
)


@dataclass(frozen=True)
class MemoryCorpus:
    """Stands in for `Corpus`: of five texts one is for choosing and one is held out."""

    all_texts: tuple[str, ...]
    files: tuple[TextFile, ...] = (TextFile(Path(__file__), "memory"),)

    def texts(self, split: str) -> Iterator[str]:
        for number, text in enumerate(self.all_texts):
            if {0: "choose", 1: "held-out"}.get(number % 5, "train") == split:
                yield text

    def documents(self, split: str, files: object = None) -> Iterator[Document]:
        return (Document(text, "memory") for text in self.texts(split))

    @property
    def survey(self) -> Survey:
        sizes = {s: sum(len(t.encode()) for t in self.texts(s)) for s in SPLITS}
        return Survey(dict.fromkeys(SPLITS, 1), sizes, 0, 2**64, {})


@pytest.fixture(scope="session")
def corpus(root: Path) -> MemoryCorpus:
    """LICENSE in paragraphs, and some Chinese."""
    paragraphs = (root / "LICENSE").read_text().split("\n\n")
    return MemoryCorpus(tuple(f"{p}\n{CHINESE}" for p in paragraphs))


@pytest.fixture(scope="session")
def byte_bpe(corpus: MemoryCorpus) -> Tokenizer:
    """Byte-level BPE, 700 tokens."""
    return train_tokenizer(iter(corpus.all_texts), vocab_size=700)


@pytest.fixture(scope="session")
def sentencepiece_bpe(corpus: MemoryCorpus, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """SentencePiece BPE with byte fallback, about 900 pieces, two of them user-defined."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(corpus.all_texts).splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<eoh>", "<eoa>"],
        minloglevel=3,
    )
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path)


@pytest.fixture(params=["byte_bpe", "sentencepiece_bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of the two."""
    chosen: Tokenizer = request.getfixturevalue(request.param)
    return chosen
