"""Tokens that stay whatever their count, each with its reason."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import RecipeError
from pocketlm.stages.compact.derive import Vocabulary
from pocketlm.stages.compact.rebuild import alphabet
from pocketlm.stages.compact.surfaces import script_named, script_of

_JINJA = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
_ROLES = ("system", "user", "assistant")  # filled in by the caller of a template


@dataclass(frozen=True)
class Keep:
    """What a user wants kept whatever its count."""

    texts: tuple[str, ...] = ()
    """Every token of these texts."""
    patterns: tuple[str, ...] = ()
    """Regular expressions (Python's `re`) over the whole text of a token."""
    scripts: tuple[str, ...] = ()
    """`Latin`, `Han`, ...: every token all of whose letters belong to the script."""


def mandatory_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary, *, keep: Keep) -> dict[int, str]:
    """Id -> `special`, `added`, `byte`, `chat`, `keep`, `pattern`, `script` or `ancestor`.

    The first reason counts. Raises `RecipeError` for a pattern that is none, and for a script that
    no token is written in.
    """
    added = tokenizer.backend.get_added_tokens_decoder()
    roles = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
    chat = chat_words(tokenizer.chat_template, (token.content for token in added.values()))
    groups: list[tuple[str, Iterable[int]]] = [
        ("special", [*tokenizer.special_ids, *(i for i in roles if i is not None)]),
        ("added", added),
        ("byte", alphabet(tokenizer)),
        ("chat", (i for ids in tokenizer.encode_batch(chat) for i in ids)),
        ("keep", (i for ids in tokenizer.encode_batch(keep.texts) for i in ids)),
        ("pattern", _matching(vocabulary, keep.patterns)),
        ("script", _written_in(vocabulary, keep.scripts)),
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


def _matching(vocabulary: Vocabulary, patterns: Sequence[str]) -> Iterator[int]:
    for pattern in patterns:
        try:
            matcher = re.compile(pattern)
        except re.error as error:
            raise RecipeError(
                f"[compact] keep_patterns = {pattern!r}: no regular expression of Python: {error}"
            ) from None
        for i, surface in enumerate(vocabulary.surfaces_P):
            if surface is not None and matcher.fullmatch(surface):
                yield i


def _written_in(vocabulary: Vocabulary, scripts: Sequence[str]) -> list[int]:
    if not scripts:
        return []
    script_P = [s if s is None else script_of(s) for s in vocabulary.surfaces_P]
    known = sorted({script.title() for script in script_P if script})
    wanted = {script_named(name) for name in scripts}
    for name in scripts:
        if script_named(name).title() not in known:
            raise RecipeError(
                f"[compact] keep_scripts = {name!r}: no token is written in it; "
                f"the vocabulary has {', '.join(known)}"
            )
    return [i for i, script in enumerate(script_P) if script in wanted]
