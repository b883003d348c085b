"""What must hold of a compacted tokenizer: a table of checks that anyone can run on their own.

Shapes: V child ids. `kept_V` maps a child id to the parent's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.stages.compact.mandatory import chat_words
from pocketlm.stages.compact.rebuild import rebuild

IntArray = npt.NDArray[np.int64]
SAMPLE_CHARACTERS = 2000

HARD_TEXTS = (
    "",
    "".join(map(chr, range(1, 128))),
    "\r\n \n\r\t \x00",
    " " * 300,
    "e\u0301\u0323 \u200d \U0001f469\u200d\U0001f52c \U0010ffff \ufeff",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0e44\u0e17\u0e22 \ud55c\uad6d\uc5b4",
    "\u9f98\u9750\u9f49\u9f49 \u3001\u3002 \U00020000\U0002a6df",
    "</s><s><unk><|endoftext|><0x0A>[MASK]",
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One invariant: whether it held, over how many things, and the first that broke it."""

    name: str
    passed: bool
    tried: int
    failed: int = 0
    note: str = ""


def verify(
    parent: Tokenizer, child: Tokenizer, kept_V: IntArray, texts: Sequence[str]
) -> tuple[Check, ...]:
    """Hold `child` against `parent` on `texts`, on hard ones of our own, and token by token.

    ids             dense, 0..V-1, each the string it was; nothing beyond
    roles           bos, eos, pad, unk and added tokens are the strings they were
    round trip      decode(encode(x)) = x; for a source that loses text: what it was before
    reachable       encoding a token's own string still gives that token alone
    same ids        text whose pieces are all kept is encoded as before
    framed          and so is it with what the tokenizer itself puts around a text
    chat words      what the chat template writes has the pieces it had
    rebuilt         keeping every token of the child gives the child again
    """
    pair = _Pair(parent, child, kept_V, [*HARD_TEXTS, *(t[:SAMPLE_CHARACTERS] for t in texts)])
    return (
        _judge("ids", pair.wrong_ids(), kept_V.size),
        _judge("roles", pair.wrong_roles(), len(parent.roles)),
        _judge("round trip", pair.wrong_round_trips(), len(pair.texts)),
        _judge("reachable", (repr(piece) for piece in pair.dead), kept_V.size),
        _judge("same ids", pair.changed(pair.snippets), len(pair.snippets)),
        _judge("framed", pair.wrong_frames(), len(pair.snippets)),
        _judge("chat words", pair.changed(pair.chat_words), len(pair.chat_words)),
        _judge("rebuilt", pair.wrong_rebuild(), kept_V.size),
    )


class _Pair:
    """Parent and child side by side; each method yields what is wrong, one line a thing."""

    def __init__(
        self, parent: Tokenizer, child: Tokenizer, kept_V: IntArray, texts: Sequence[str]
    ) -> None:
        self.parent, self.child, self.kept_V, self.texts = parent, child, kept_V, texts
        added = parent.backend.get_added_tokens_decoder().values()
        self.chat_words = chat_words(parent.chat_template, (token.content for token in added))

    @cached_property
    def snippets(self) -> list[str]:
        """Texts short enough that some have all their pieces kept."""
        words = {word for text in self.texts for word in (*text.split(), *text.split("\n"))}
        return sorted(words | set(self.texts))

    @cached_property
    def dead(self) -> list[str]:
        """Pieces that are no longer their own encoding, but were in the parent."""
        if self.parent.family == "wordpiece":  # the longest match from the left reaches every one
            return []
        pieces = self.child.backend.get_vocab(with_added_tokens=False)
        added = self.child.backend.get_added_tokens_decoder()
        return [
            piece
            for piece, new in pieces.items()
            if new not in added
            and _alone(self.child, piece) != [new]
            and _alone(self.parent, piece) == self._old_ids([new])
        ]

    def wrong_ids(self) -> Iterator[str]:
        before = {i: piece for piece, i in self.parent.backend.get_vocab().items()}
        after = {i: piece for piece, i in self.child.backend.get_vocab().items()}
        for new, old in enumerate(self.kept_V.tolist()):
            if after.get(new) != before[old]:
                yield f"id {new} is {after.get(new)!r}, expected {before[old]!r}"
        if len(after) != self.kept_V.size:
            yield f"{len(after)} tokens, {self.kept_V.size} were chosen"

    def wrong_roles(self) -> Iterator[str]:
        for role, name in self.parent.roles.items():
            if self.child.roles.get(role) != name:
                yield f"{role} is {self.child.roles.get(role)!r}, expected {name!r}"
        before, after = _added_tokens(self.parent), _added_tokens(self.child)
        after = {self._old_ids([new])[0]: token for new, token in after.items()}
        for old in before.keys() | after.keys():
            if before.get(old) != after.get(old):
                name = (before.get(old) or after[old])["content"]
                yield f"added token {name!r} has changed"

    def wrong_round_trips(self) -> Iterator[str]:
        lossless = self.parent.lossless is None
        before = self.texts if lossless else self._decoded(self.parent)
        for text, expected, got in zip(self.texts, before, self._decoded(self.child), strict=True):
            if got != expected:
                yield f"{text[:40]!r} comes back as {got[:40]!r}"

    def changed(self, texts: Sequence[str]) -> Iterator[str]:
        kept = set(self.kept_V.tolist())
        pairs = zip(self.parent.encode_batch(texts), self.child.encode_batch(texts), strict=True)
        for text, (old, new) in zip(texts, pairs, strict=True):
            if kept.issuperset(old) and self._old_ids(new) != old:
                yield f"{text[:40]!r} has other ids although all are kept"

    def wrong_frames(self) -> Iterator[str]:
        kept = set(self.kept_V.tolist())
        both = (t.backend.encode_batch_fast(self.snippets) for t in (self.parent, self.child))
        for text, old, new in zip(self.snippets, *both, strict=True):
            if kept.issuperset(old.ids) and self._old_ids(new.ids) != old.ids:
                yield f"{text[:40]!r} is framed otherwise"

    def wrong_rebuild(self) -> Iterator[str]:
        again = rebuild(self.child, np.arange(self.kept_V.size))
        if again.backend.to_str() != self.child.backend.to_str():
            yield "it differs"

    def _old_ids(self, new_ids: Sequence[int]) -> list[int]:
        """Parent ids of child ids; -1 for one that should not exist."""
        return [int(self.kept_V[new]) if new < self.kept_V.size else -1 for new in new_ids]

    def _decoded(self, tokenizer: Tokenizer) -> list[str]:
        return [tokenizer.decode(ids) for ids in tokenizer.encode_batch(self.texts)]


def _judge(name: str, wrong: Iterator[str], tried: int) -> Check:
    found = list(wrong)
    note = "" if not found else f"{len(found)} times; first: {found[0]}"
    return Check(name=name, passed=not found, tried=tried, failed=len(found), note=note)


def _added_tokens(tokenizer: Tokenizer) -> dict[int, dict[str, Any]]:
    """Everything the file says of each added token but its id, which changes, by that id."""
    tokens = tokenizer.document["added_tokens"]
    return {token["id"]: {k: v for k, v in token.items() if k != "id"} for token in tokens}


def _alone(tokenizer: Tokenizer, piece: str) -> list[int]:
    return [token.id for token in tokenizer.backend.model.tokenize(piece)]
