"""Write the child's tokenizer: the parent's own file with fewer tokens and dense ids.

A merge stays iff both halves and the result stay; the order of merges stays. Then text whose
pieces are all kept is encoded as before, because no removed merge was ever applied in it.
Shapes: V child ids, P parent ids.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer, tokenizer_from_document
from pocketlm.stages.compact.rebuild import byte_bpe, sentencepiece_bpe


def alphabet(tokenizer: Tokenizer) -> list[int]:
    """Ids without which some text that can be written now could not be written any more."""
    document = json.loads(tokenizer.backend.to_str())
    if byte_bpe.is_family(document):
        return byte_bpe.alphabet(document["model"])
    return sentencepiece_bpe.alphabet(document["model"])


def rebuild(tokenizer: Tokenizer, kept_V: npt.NDArray[np.int64]) -> Tokenizer:
    """`tokenizer` with the tokens `kept_V` only, numbered 0..V-1 in that order.

    Every id in the file is renumbered: vocabulary, added tokens, post-processor; the roles of
    bos, eos, pad and unk go by name. All added tokens must be in `kept_V`.
    """
    new_ids = {int(old): new for new, old in enumerate(kept_V)}
    document = json.loads(tokenizer.backend.to_str())
    model = document["model"]
    old_vocab: dict[str, int] = model["vocab"]
    vocab = {piece: new_ids[i] for piece, i in old_vocab.items() if i in new_ids}
    merges = [m for m in model["merges"] if m[0] in vocab and m[1] in vocab and "".join(m) in vocab]
    document["model"] = {**model, "vocab": vocab, "merges": merges}
    document["added_tokens"] = [
        {**token, "id": new_ids[token["id"]]} for token in document["added_tokens"]
    ]
    document["post_processor"] = _renumber(document["post_processor"], new_ids)
    return tokenizer_from_document(
        document, roles=tokenizer.roles, chat_template=tokenizer.chat_template
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
