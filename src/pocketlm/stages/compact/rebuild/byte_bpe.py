"""Byte-level BPE (GPT-2, Llama 3, Qwen): 256 characters stand for the 256 bytes.

A merge stays iff both halves and the result stay; the order of merges stays. Then text whose
pieces are all kept is encoded as before, because no removed merge was ever applied in it.
"""

from collections.abc import Mapping

from pocketlm.corpus.document import Document, byte_characters


def cut_model(model: Document, new_ids: Mapping[int, int]) -> Document:
    """The model with the pieces in `new_ids`, and the merges among them."""
    vocab = {piece: new_ids[i] for piece, i in model["vocab"].items() if i in new_ids}
    merges = [m for m in model["merges"] if m[0] in vocab and m[1] in vocab and "".join(m) in vocab]
    return {**model, "vocab": vocab, "merges": merges}


def alphabet(model: Document) -> list[int]:
    """Ids of the byte characters that the source has. A missing one loses its byte silently."""
    vocab = model["vocab"]
    return [vocab[character] for character in byte_characters().values() if character in vocab]
