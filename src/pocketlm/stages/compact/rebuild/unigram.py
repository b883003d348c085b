"""Unigram (Kudo 2018, arXiv 1804.10959): pieces with log probabilities; any subset is legal.

Scores stay as they are. They are no probabilities any more, but adding a constant to each, as a
renormalisation would, changes segmentations: paths differ in length.
"""

from collections.abc import Mapping

from pocketlm.corpus.document import Document
from pocketlm.corpus.lossless import BYTE_PIECES


def cut_model(model: Document, new_ids: Mapping[int, int]) -> Document:
    """The model with the pieces in `new_ids`; `unk_id` is a place in the list, so it moves."""
    pieces = model["vocab"]
    vocab = [pieces[old] for old in sorted(new_ids, key=new_ids.__getitem__) if old < len(pieces)]
    return {**model, "vocab": vocab, "unk_id": new_ids[model["unk_id"]]}


def alphabet(model: Document) -> list[int]:
    """Ids of <unk> and the byte pieces; where those are not complete, of every character too."""
    vocab = {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    needed = [model["unk_id"], *(vocab[name] for name in BYTE_PIECES if name in vocab)]
    if model.get("byte_fallback") and len(needed) > len(BYTE_PIECES):
        return needed
    return needed + [i for piece, i in vocab.items() if len(piece) == 1]
