"""Tokens that stay whatever their count, each with its reason."""

import re
from collections.abc import Iterable, Sequence

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.stages.compact.derive import Vocabulary
from pocketlm.stages.compact.rebuild import alphabet

_JINJA = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
_ROLES = ("system", "user", "assistant")  # filled in by the caller of a template


def mandatory_tokens(
    tokenizer: Tokenizer, vocabulary: Vocabulary, *, keep: Sequence[str]
) -> dict[int, str]:
    """Id -> `special`, `added`, `byte`, `chat`, `keep` or `ancestor`; the first reason counts."""
    added = tokenizer.backend.get_added_tokens_decoder()
    roles = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
    chat = chat_words(tokenizer.chat_template, (token.content for token in added.values()))
    groups: list[tuple[str, Iterable[int]]] = [
        ("special", [*tokenizer.special_ids, *(i for i in roles if i is not None)]),
        ("added", added),
        ("byte", alphabet(tokenizer)),
        ("chat", (i for ids in tokenizer.encode_batch(chat) for i in ids)),
        ("keep", (i for ids in tokenizer.encode_batch(keep) for i in ids)),
    ]
    reasons: dict[int, str] = {}
    for reason, ids in groups:
        for i in ids:
            reasons.setdefault(i, reason)
    for i in vocabulary.ancestors(list(reasons)):
        reasons.setdefault(i, "ancestor")
    return reasons


def chat_words(template: str | None, specials: Iterable[str]) -> list[str]:
    """Texts that a Jinja chat template writes itself, cut at special tokens, and role names."""
    if template is None:
        return []
    quoted = (a or b for code in _JINJA.findall(template) for a, b in _QUOTED.findall(code))
    texts = [_JINJA.sub("\0", template), *quoted, *_ROLES]
    joined = "\0".join(texts).replace("\\n", "\n")
    for special in specials:
        joined = joined.replace(special, "\0")
    return sorted({text for text in joined.split("\0") if text})
