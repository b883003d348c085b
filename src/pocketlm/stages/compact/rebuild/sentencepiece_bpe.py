"""SentencePiece BPE: characters, with <0x00>..<0xFF> for those that have no piece.

Merges are cut as in byte-level BPE. The SentencePiece form needs pieces and scores only: there
any two neighbours merge whose joined piece is kept, and the list holds every such pair whose
halves are pieces.
"""

from pocketlm.corpus.document import Document
from pocketlm.corpus.lossless import BYTE_PIECES
from pocketlm.stages.compact.rebuild.byte_bpe import cut_model

__all__ = ["alphabet", "cut_model"]


def alphabet(model: Document) -> list[int]:
    """Ids of the byte pieces; where they are not complete, of every single character too.

    Without all bytes a dropped character would become <unk>, which decodes to nothing.
    """
    vocab: dict[str, int] = model["vocab"]
    byte_pieces = [vocab[name] for name in BYTE_PIECES if name in vocab]
    if model["byte_fallback"] and len(byte_pieces) == len(BYTE_PIECES):
        return byte_pieces
    return byte_pieces + [i for piece, i in vocab.items() if len(piece) == 1]
