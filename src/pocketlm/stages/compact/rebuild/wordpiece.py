"""WordPiece (BERT): the longest match from the left, then the next; no token needs another.

A word with one unknown character becomes [UNK] as a whole, so characters are kept in both forms.
"""

from collections.abc import Mapping

from pocketlm.corpus.document import Document


def cut_model(model: Document, new_ids: Mapping[int, int]) -> Document:
    """The model with the pieces in `new_ids`."""
    vocab = {piece: new_ids[i] for piece, i in model["vocab"].items() if i in new_ids}
    return {**model, "vocab": vocab}


def alphabet(model: Document) -> list[int]:
    """Ids of [UNK] and of every single character, at the beginning of a word and inside it."""
    vocab: dict[str, int] = model["vocab"]
    prefix = model["continuing_subword_prefix"]
    characters = [i for piece, i in vocab.items() if len(piece.removeprefix(prefix)) == 1]
    return [vocab[model["unk_token"]], *characters]
