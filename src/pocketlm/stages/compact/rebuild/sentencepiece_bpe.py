"""SentencePiece BPE: characters, with <0x00>..<0xFF> for those that have no piece."""

from typing import Any


def alphabet(model: Any) -> list[int]:
    """Ids of the byte pieces; where they are not complete, of every single character too.

    Without all bytes a dropped character would become <unk>, which decodes to nothing.
    """
    vocab: dict[str, int] = model["vocab"]
    byte_pieces = [vocab[name] for name in (f"<0x{b:02X}>" for b in range(256)) if name in vocab]
    if model["byte_fallback"] and len(byte_pieces) == 256:
        return byte_pieces
    return byte_pieces + [i for piece, i in vocab.items() if len(piece) == 1]
