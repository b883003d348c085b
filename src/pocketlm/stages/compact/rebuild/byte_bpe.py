"""Byte-level BPE (GPT-2, Llama 3, Qwen): 256 characters stand for the 256 bytes."""

from typing import Any

from tokenizers import pre_tokenizers


def is_family(document: Any) -> bool:
    """Whether a `tokenizer.json` turns text into byte characters before BPE."""
    return any(
        step["type"] == "ByteLevel"
        for place in ("normalizer", "pre_tokenizer")
        for step in _steps(document[place])
    )


def alphabet(model: Any) -> list[int]:
    """Ids of the byte characters that the source has. A missing one loses its byte silently."""
    characters = pre_tokenizers.ByteLevel.alphabet()
    return [i for piece, i in model["vocab"].items() if piece in characters]


def _steps(place: Any) -> list[Any]:
    if place is None:
        return []
    if place["type"] != "Sequence":
        return [place]
    steps: list[Any] = place.get("pretokenizers") or place.get("normalizers") or []
    return steps
