"""Where a context ends and a choice begins, in tokens: what is read and what is scored.

Context c and choice a are one text, so they are encoded as one; then a token may cover the end of c
and the beginning of a ("：A" as one token after "答案："), and no cut between tokens is the cut
between c and a. Let h be the tokens that encode(c) and the encodings of all choices begin with
alike, and r the rest of c in bytes. Two answers to what p(a | c) is:

`heal` steps back to h, one boundary for all choices of an item, and takes the step out again:

    p(a | c) = p(r a | h) / p(r | h)
    p(r a | h) = product of p(t | ..) over the tokens of encode(c a) after h
    p(r | h)   = sum over q of p(q | h) sum over { t : q t begins with r } of p(t | h q)

q runs over the empty row and every row of tokens inside r that some choice's encoding goes through,
so p(r | h) is the mass of all tokens that can carry r on (Phan et al. 2024, arXiv 2410.09303, give
the exact sum over all rows; those that no encoding uses get next to nothing from a trained model).
Without the division each choice would pay for r too: the order of the sums would stay, but not that
of nats per byte, where a shorter choice would carry more of r. Dividing by p(encode(r) | h) instead
is wrong: a model trained on whole words hardly ever writes a lone blank, so p(a | c) could exceed
one. Here it cannot. Where no token crosses, r is empty and nothing is divided. Where bytes of r are
unknown (a vocabulary without them), p(r | h) counts as 1: every choice pays for r alike.

`lm-eval` does as lm-evaluation-harness, to agree with it item by item: blanks that end c go to a,
then as many tokens as encode(c) has are cut off encode(c a), whether it begins with them or not,
and what is left is scored behind encode(c).

Shapes: C choices of an item, T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.errors import StageError
from pocketlm.method import Method
from pocketlm.stages.evaluate.items import Item
from pocketlm.stages.evaluate.token_bytes import TokenBytes


class Pass(NamedTuple):
    """One term of p(r | h): before token `place` of choice `choice`, any of `ids` ends r."""

    choice: int
    place: int
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class Seam:
    """An item in tokens. Choice k is scored on `ids_C[k][first_C[k]:]`."""

    ids_C: tuple[list[int], ...]
    """Prefix token where there is one, context, choice."""
    first_C: tuple[int, ...]
    context_T: list[int]
    """The context encoded alone, prefix token and cut like the choices': what a model continues."""
    passes: tuple[Pass, ...] = ()
    """Empty where p(r | h) is 1."""
    crossed: int
    """Choices whose encoding does not begin with the context's."""
    cut_C: tuple[int, ...]
    """Tokens of the context's beginning that are left out."""
    has_prefix: bool
    """Whether `ids_C` begin with the prefix token (a cut may take it)."""


Encode = Callable[[Tokenizer, Sequence[Item], int], Iterator[Seam]]


def heal(tokenizer: Tokenizer, items: Sequence[Item], context_tokens: int) -> Iterator[Seam]:
    """Token healing: step back to a boundary all encodings share, divide the step out again.

    A context too long loses its beginning, the same of it for every choice; the prefix token stays.
    """
    table: TokenBytes | None = None
    prefix = _prefix(tokenizer)
    for _item, context_T, whole_CT in _encoded(tokenizer, items, [item.context for item in items]):
        edge = min(common_length(context_T, whole_T) for whole_T in whole_CT)
        passes: tuple[Pass, ...] = ()
        if edge < len(context_T):
            table = table or TokenBytes(tokenizer)
            passes = _passes(table, whole_CT, edge, table.of(context_T[edge:]))
        first = len(prefix) + edge
        longest = max(len(whole_T) for whole_T in whole_CT) + len(prefix)
        cut = _cut(longest, first, context_tokens)
        yield Seam(
            ids_C=tuple([*prefix, *whole_T[cut:]] for whole_T in whole_CT),
            first_C=(first - cut,) * len(whole_CT),
            context_T=[*prefix, *context_T[cut:]],
            passes=tuple(Pass(p.choice, p.place + len(prefix) - cut, p.ids) for p in passes),
            crossed=_crossed(context_T, whole_CT),
            cut_C=(cut,) * len(whole_CT),
            has_prefix=bool(prefix),
        )


def lm_eval(tokenizer: Tokenizer, items: Sequence[Item], context_tokens: int) -> Iterator[Seam]:
    """As lm-eval with `add_bos_token`: encode(c), then encode(c a) without that many tokens.

    What is too long loses its beginning, prefix token included, each choice for itself.
    """
    prefix = _prefix(tokenizer)
    contexts = [item.context.rstrip() for item in items]
    for item, context_T, whole_CT in _encoded(tokenizer, items, contexts):
        first = len(prefix) + len(context_T)
        if any(len(whole_T) <= len(context_T) for whole_T in whole_CT):
            raise StageError(
                f"{name_of(item)}: a choice has no token of its own behind the context"
            )
        # Where a token crosses the seam, its part of c is read and it is not: as lm-eval has it.
        ids_C = [[*prefix, *context_T, *whole_T[len(context_T) :]] for whole_T in whole_CT]
        read_T = [*prefix, *context_T]
        if item.context != item.context.rstrip():  # what is continued keeps its blanks
            read_T = [*prefix, *tokenizer.encode(item.context)]
        cut_C = tuple(_cut(len(ids_T), first, context_tokens) for ids_T in ids_C)
        yield Seam(
            ids_C=tuple(ids_T[cut:] for ids_T, cut in zip(ids_C, cut_C, strict=True)),
            first_C=tuple(first - cut for cut in cut_C),
            context_T=read_T[max(cut_C) :],
            crossed=_crossed(context_T, whole_CT),
            cut_C=cut_C,
            has_prefix=bool(prefix) and max(cut_C) == 0,
        )


SEAMS: dict[str, Method[Encode]] = {
    "heal": Method(heal, paper="Phan et al. 2024, arXiv 2410.09303; Lundberg 2023, guidance"),
    "lm-eval": Method(lm_eval, paper="lm-evaluation-harness, TemplateLM._encode_pair"),
}


def shorten(seam: Seam, num_tokens: int) -> Seam:
    """The same with `num_tokens` more left out of the context's beginning, the prefix kept.

    There must be so many before the first scored token, and one more.
    """
    front, rest = slice(int(seam.has_prefix)), slice(int(seam.has_prefix) + num_tokens, None)
    return replace(
        seam,
        ids_C=tuple(ids[front] + ids[rest] for ids in seam.ids_C),
        first_C=tuple(first - num_tokens for first in seam.first_C),
        context_T=seam.context_T[front] + seam.context_T[rest],
        passes=tuple(Pass(p.choice, p.place - num_tokens, p.ids) for p in seam.passes),
        cut_C=tuple(cut + num_tokens for cut in seam.cut_C),
    )


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of entries that both begin with alike."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    pairs = zip(first[:length], second[:length], strict=True)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def name_of(item: Item) -> str:
    """How messages name an item: `evaluate: TASK item ID`."""
    return f"evaluate: {item.task} item {item.question.id}"


def _encoded(
    tokenizer: Tokenizer, items: Sequence[Item], contexts: Sequence[str]
) -> Iterator[tuple[Item, list[int], list[list[int]]]]:
    """Ids of each context alone and of context and choice as one text, nothing added.

    Raises `StageError` for a choice that adds no token to what the context alone has.
    """
    texts = [item.context + choice for item in items for choice in item.choices]
    ids = tokenizer.encode_batch([*contexts, *texts])
    whole = iter(ids[len(contexts) :])
    for item, context_T in zip(items, ids, strict=False):
        whole_CT = [next(whole) for _ in item.choices]
        for choice, whole_T in zip(item.choices, whole_CT, strict=True):
            if not choice or not whole_T or whole_T == context_T:
                raise StageError(
                    f"{name_of(item)}: choice {choice[:40]!r} adds no token to its context; give a "
                    "choice with text, and a vocabulary that can write it"
                )
        yield item, context_T, whole_CT


def _passes(
    table: TokenBytes, whole_CT: Sequence[list[int]], edge: int, rest: bytes | None
) -> tuple[Pass, ...]:
    """The terms of p(r | h); none where r, or a row that goes through it, has unknown bytes."""
    found: dict[tuple[int, ...], Pass] = {}
    for choice, whole_T in enumerate(whole_CT):
        read: bytes | None = b""
        for place in range(edge, len(whole_T)):
            if rest is None or read is None or not rest.startswith(read):
                return ()
            if read == rest:
                break
            row = tuple(whole_T[edge:place])
            if row not in found:
                found[row] = Pass(choice, place, table.starting_with(rest[len(read) :]))
            read = table.of(whole_T[edge : place + 1])
            if read is not None and read.startswith(rest):
                break
    return tuple(found.values())


def _cut(length: int, first: int, context_tokens: int) -> int:
    """Tokens to leave out, so that `context_tokens` are read at most of all but the last of
    `length`; an answer longer than that keeps one token before it."""
    return min(max(0, length - 1 - context_tokens), max(0, first - 1))


def check_lengths(items: Sequence[Item], seams: Sequence[Seam], most_tokens: int) -> None:
    """Raise `StageError` for a choice of which the model could not read all but the last token."""
    for item, seam in zip(items, seams, strict=True):
        for ids, first in zip(seam.ids_C, seam.first_C, strict=True):
            if len(ids) - 1 > most_tokens:
                raise StageError(
                    f"{name_of(item)}: a choice has {len(ids) - first} tokens, and the model reads "
                    f"{most_tokens}; answers are never cut"
                )


def _crossed(context_T: list[int], whole_CT: Sequence[list[int]]) -> int:
    return sum(whole_T[: len(context_T)] != context_T for whole_T in whole_CT)


def _prefix(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
