"""A folder with `vocab.json` and `merges.txt` (GPT-2's form) as a `tokenizer.json` document.

The files do not say how text is cut into words: `tokenizer_class` of tokenizer_config.json does,
and without it they are taken as GPT-2's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketlm.corpus.document import Document, added_token, byte_level
from pocketlm.corpus.ranks import END, QWEN_SPLIT
from pocketlm.errors import ParentError

_GPT2 = {"bos_token": END, "eos_token": END}
_BART = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_QWEN = {"eos_token": END, "pad_token": END}
_CLASSES = {
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "WhisperTokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT2,
    "RobertaTokenizer": _BART,
    "BartTokenizer": _BART,
    "LongformerTokenizer": _BART,
    "LEDTokenizer": _BART,
    "Qwen2Tokenizer": _QWEN,
}


def convert_merges(
    path: Path, vocab: dict[str, int], config: Mapping[str, Any]
) -> tuple[Document, dict[str, str]]:
    """The document of `vocab` and the `merges.txt` beside `path`, and its roles.

    Raises `ParentError` for a tokenizer class whose way to cut text is not known here.
    """
    name = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if name not in _CLASSES:
        known = ", ".join(_CLASSES)
        raise ParentError(
            f"how a {name} cuts text into words is not in its files; known: {known}; "
            "convert others to tokenizer.json"
        )
    roles = {role: token for role, token in _CLASSES[name].items() if token in vocab}
    specials = {*roles.values(), "<mask>"} & vocab.keys()
    words = byte_level(add_prefix_space=bool(config.get("add_prefix_space")))
    framed = _CLASSES[name] is _BART and len(roles) == len(_BART)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(token, vocab[token], special=True, lstrip=token == "<mask>")
            for token in sorted(specials)
        ],
        "normalizer": {"type": "NFC"} if _CLASSES[name] is _QWEN else None,
        "pre_tokenizer": _qwen_words() if _CLASSES[name] is _QWEN else words,
        "post_processor": _around(vocab) if framed else None,
        "decoder": byte_level(),
        "model": {"type": "BPE", "vocab": vocab, "merges": _read_merges(path.parent)},
    }
    return document, roles


def _around(vocab: Mapping[str, int]) -> Document:
    ends = {"cls": ["<s>", vocab["<s>"]], "sep": ["</s>", vocab["</s>"]]}
    return {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": False}


def _qwen_words() -> Document:
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated"}
    steps = [{**split, "invert": False}, byte_level(use_regex=False)]
    return {"type": "Sequence", "pretokenizers": steps}


def _read_merges(folder: Path) -> list[list[str]]:
    """Pairs by rank. Only a first line may be a comment: GPT-2's own merges begin with `#` too."""
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:  # a ValueError is text that is not UTF-8
        raise ParentError(f"merges.txt cannot be read: {error}") from None
    if lines[0].startswith("#version"):
        del lines[0]
    merges = [line.removesuffix("\r").split(" ") for line in lines if line.strip()]
    if wrong := next((merge for merge in merges if len(merge) != 2), None):
        raise ParentError(f"merges.txt: a line is two tokens, not {' '.join(wrong)!r}")
    return merges
