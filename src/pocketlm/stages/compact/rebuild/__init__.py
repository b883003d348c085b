"""Write the child's tokenizer: the parent's own file with fewer tokens and dense ids.

Each family says which tokens no text can do without (`alphabet`) and how its model loses the
others (`cut_model`); what is around the model is renumbered here, the same for all.
Shapes: V child ids, P parent ids.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.document import Document, Family, with_added
from pocketlm.corpus.sentencepiece import cut_pieces
from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.stages.compact.rebuild import byte_bpe, sentencepiece_bpe, unigram, wordpiece


class _Family(NamedTuple):
    cut_model: Callable[[Document, Mapping[int, int]], Document]
    """Model part and old id -> new id; the model with those tokens only."""
    alphabet: Callable[[Document], list[int]]
    """Model part; ids without which some text becomes unwritable."""


_FAMILIES: Mapping[Family, _Family] = {
    "byte-bpe": _Family(byte_bpe.cut_model, byte_bpe.alphabet),
    "sentencepiece-bpe": _Family(sentencepiece_bpe.cut_model, sentencepiece_bpe.alphabet),
    "unigram": _Family(unigram.cut_model, unigram.alphabet),
    "wordpiece": _Family(wordpiece.cut_model, wordpiece.alphabet),
}


def alphabet(tokenizer: Tokenizer) -> list[int]:
    """Ids without which some text that can be written now could not be written any more."""
    return _FAMILIES[tokenizer.family].alphabet(tokenizer.document["model"])


def rebuild(tokenizer: Tokenizer, kept_V: npt.NDArray[np.int64]) -> Tokenizer:
    """`tokenizer` with the tokens `kept_V` only (ascending), numbered 0..V-1 in that order.

    Every id in the file is renumbered: vocabulary, unknown id, added tokens, post-processor, and
    the SentencePiece form, unless it would read text otherwise (`cut_pieces`); the roles of bos,
    eos, pad and unk go by name. All added tokens, the roles and the alphabet must be in `kept_V`.
    """
    new_ids = {old: new for new, old in enumerate(kept_V.tolist())}
    document = tokenizer.document
    added = [{**token, "id": new_ids[token["id"]]} for token in document["added_tokens"]]
    child = {
        **document,
        "model": _FAMILIES[tokenizer.family].cut_model(document["model"], new_ids),
        "added_tokens": [],
        "post_processor": _renumber(document["post_processor"], new_ids),
    }
    proto = tokenizer.sentencepiece
    return tokenizer_from_document(
        with_added(child, added),
        roles=tokenizer.roles,
        chat_template=tokenizer.chat_template,
        sentencepiece=None if proto is None else cut_pieces(proto, kept_V.tolist()),
    )


def _renumber(processor: Any, new_ids: Mapping[int, int]) -> Any:
    """A post-processor with the new ids; `Sequence` holds others, `ByteLevel` holds no id."""
    if processor is None:
        return None
    kind = processor["type"]
    if kind == "Sequence":
        return {**processor, "processors": [_renumber(p, new_ids) for p in processor["processors"]]}
    if kind == "TemplateProcessing":
        specials = {
            name: {**special, "ids": [new_ids[i] for i in special["ids"]]}
            for name, special in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": specials}
    if kind in ("BertProcessing", "RobertaProcessing"):
        ends = {end: [processor[end][0], new_ids[processor[end][1]]] for end in ("sep", "cls")}
        return {**processor, **ends}
    return processor
