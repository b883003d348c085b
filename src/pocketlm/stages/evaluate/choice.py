"""Score choices: the nats of each behind its context, the context read once for all of them.

    nats(a | c) = - sum_t ln p(a_t | c, a_1, ..., a_t-1)        t over the tokens of a; see seam.py

Summed over the answer alone, in float32: a mean over tokens, the prompt's or the answer's, would
rank the same answers differently under another tokenizer. Where no token opens a text and the
context is empty, the first token counts as uniform, ln V nats, as in bits.py.

Shapes: C choices of an item, B trees of a batch, M places wanted, T tokens, D width.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pocketlm.errors import StageError
from pocketlm.method import pick
from pocketlm.progress import SILENT, Advance, Progress
from pocketlm.stages.evaluate.items import Item, Record
from pocketlm.stages.evaluate.reader import Reader, open_reader
from pocketlm.stages.evaluate.seam import SEAMS, Seam, check_lengths, name_of
from pocketlm.stages.evaluate.trees import Batch, Tree, batches, tree_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer

ITEMS_AT_ONCE = 512
"""Items whose tokens are held, and among which like sizes and common beginnings are looked for."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How items are read. Only `context_tokens` and `seam` change a score beyond rounding."""

    context_tokens: int
    """What is read at most, the prefix token included (2 or more)."""
    most_tokens: int = 0
    """What the model can read where an answer alone is longer than that, if it is more."""
    seam: str = "heal"
    """An entry of `SEAMS`."""
    batch_tokens: int | None = None
    """Padded input of a batch; None: by the device."""
    autocast: bool = False
    """bfloat16 products instead of float32."""
    share: bool = True
    """Read common beginnings once; False reads every choice from scratch."""

    @property
    def limit(self) -> int:
        """Tokens of the longest answer."""
        return max(self.context_tokens, self.most_tokens)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What came out, and what it took."""

    records: tuple[Record, ...]
    """In the items' order."""
    tokens_read: int
    """Tokens the network read, padding left out."""
    tokens_alone: int
    """Tokens it would have read with every choice from scratch."""


class Part(NamedTuple):
    """Whose rows a tree holds: row r is choice `choices[r]` of item `item`."""

    item: int
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Logs:
    """What the network said, of items by their place."""

    tokens: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """(item, choice) -> ln p of its tokens in order."""
    masses: dict[tuple[int, int], float] = field(default_factory=dict)
    """(item, pass) -> ln of the summed p of its tokens."""
    not_greedy: set[tuple[int, int]] | None = None
    """(item, choice) with a token that was not the likeliest; None: nobody looks."""


def score_items(
    network: "PreTrainedModel",
    tokenizer: "Tokenizer",
    items: Sequence[Item],
    *,
    how: Reading,
    progress: Progress = SILENT,
) -> Scores:
    """One record an item: nats, tokens, bytes and characters of every choice.

    Raises `StageError` with task and item for a choice without a token or longer than the model
    reads, and for nats that are not finite; `RecipeError` for an unknown seam.
    """
    encode = pick(SEAMS, how.seam, "seam")
    reader = open_reader(
        network, autocast=how.autocast, batch_tokens=how.batch_tokens, share=how.share
    )
    records: list[Record] = []
    alone = 0
    with progress.task("scoring", len(items), "item") as advance:
        for start in range(0, len(items), ITEMS_AT_ONCE):
            some = items[start : start + ITEMS_AT_ONCE]
            seams = list(encode(tokenizer, some, how.context_tokens))
            check_lengths(some, seams, how.limit)
            logs = Logs()
            read_seams(reader, seams, logs, how.share, advance)
            for place, (item, seam) in enumerate(zip(some, seams, strict=True)):
                nats_C = nats_of(place, seam, logs, num_tokens=tokenizer.num_tokens)
                records.append(record_of(item, seam, nats_C))
            alone += sum(len(ids) - 1 for seam in seams for ids in seam.ids_C)
    return Scores(records=tuple(records), tokens_read=reader.tokens_read, tokens_alone=alone)


def ask(
    reader: Reader,
    hidden_BTD: "torch.Tensor",
    batch: Batch,
    parts: Sequence[Part],
    seams: Sequence[Seam],
    logs: Logs,
) -> None:
    """Put into `logs` what the batch's hidden states say of its items; `parts` by tree's owner."""
    tokens: list[tuple[tuple[int, int], int, int, int]] = []  # key, row, node, target
    masses: list[tuple[tuple[int, int], int, int, list[int]]] = []
    for row, tree in enumerate(batch.trees):
        item, choices = parts[tree.owner]
        seam = seams[item]
        for branch, choice in enumerate(choices):
            ids = seam.ids_C[choice]
            for place in range(max(1, seam.first_C[choice]), len(ids)):
                node = tree.node(branch, place - 1) - batch.shared
                tokens.append(((item, choice), row, node, ids[place]))
        for number, term in enumerate(seam.passes):
            if term.choice in choices and term.place:
                node = tree.node(choices.index(term.choice), term.place - 1) - batch.shared
                masses.append(((item, number), row, node, term.ids))
    if tokens:
        keys, rows, nodes, targets = zip(*tokens, strict=True)
        hidden_MD = hidden_BTD[list(rows), list(nodes)]
        found = reader.log_probs(hidden_MD, targets)
        for key, value in zip(keys, found.tolist(), strict=True):
            logs.tokens.setdefault(key, []).append(value)
        if logs.not_greedy is not None:
            triples = zip(keys, reader.likeliest(hidden_MD), targets, strict=True)
            logs.not_greedy.update(key for key, best, target in triples if best != target)
    if masses:
        keys, rows, nodes, ids_M = zip(*masses, strict=True)
        found = reader.log_masses(hidden_BTD[list(rows), list(nodes)], ids_M)
        logs.masses.update(zip(keys, found.tolist(), strict=True))


def nats_of(place: int, seam: Seam, logs: Logs, *, num_tokens: int) -> tuple[float, ...]:
    """- ln p(a | c) of each choice: of its tokens, less what the context's end has in them."""
    uniform = -math.log(num_tokens)
    logs_C = [
        [uniform] * (first == 0) + logs.tokens.get((place, choice), [])
        for choice, first in enumerate(seam.first_C)
    ]
    if not seam.passes:
        return tuple(-math.fsum(own) for own in logs_C)
    terms = []
    for number, (choice, before, ids) in enumerate(seam.passes):
        inside = math.fsum(logs_C[choice][: before - seam.first_C[choice]])
        mass = logs.masses.get((place, number), uniform + math.log(len(ids)))
        terms.append(inside + mass)
    top = max(terms)
    rest = top + math.log(math.fsum(math.exp(term - top) for term in terms))
    # Not below 0, but by rounding: each choice's own row is one of those that `rest` sums up.
    return tuple(max(0.0, rest - math.fsum(own)) for own in logs_C)


def record_of(item: Item, seam: Seam, nats_C: Sequence[float]) -> Record:
    """The record of what was read and found. Raises `StageError` for nats that are not finite."""
    question = item.question
    for choice, nats in zip(item.choices, nats_C, strict=True):
        if not math.isfinite(nats):
            raise StageError(
                f"{name_of(item)}: the network gives {nats} nats to choice {choice[:40]!r}"
            )
    told = json.dumps([item.context, *item.choices], ensure_ascii=False)
    return Record(
        task=item.task,
        form=item.form,
        item=question.id,
        part=question.part,
        cluster=question.cluster,
        gold=item.places.index(question.gold) if question.gold in item.places else 0,
        nats=tuple(nats_C),
        tokens=tuple(len(ids) - first for ids, first in zip(seam.ids_C, seam.first_C, strict=True)),
        num_bytes=tuple(len(choice.encode()) for choice in item.choices),
        num_characters=tuple(len(choice.removeprefix(" ")) for choice in item.choices),
        context_tokens=max(seam.first_C) - seam.has_prefix,
        context_cut=max(seam.cut_C),
        seam=seam.crossed,
        prompt_sha256=hashlib.sha256(told.encode()).hexdigest(),
    )


def read_seams(
    reader: Reader, seams: Sequence[Seam], logs: Logs, share: bool, advance: Advance
) -> None:
    """Put into `logs` what the network says of every item: folded into a tree, or each choice for
    itself where `share` is False or the network reads no trees."""
    parts: list[Part] = []
    trees: list[Tree] = []
    for item, seam in enumerate(seams):
        every = tuple(range(len(seam.ids_C)))
        whole = _tree(seam, every, owner=len(parts))
        folded = share and (whole.is_line or whole.size <= reader.longest_tree)
        some = [every] if folded else [(choice,) for choice in every]
        for choices in some:
            trees.append(_tree(seam, choices, owner=len(parts)))
            parts.append(Part(item, choices))
    full = [tree for tree in trees if tree.size]
    for batch in batches(full, reader.batch_tokens, longest_shared=reader.longest_tree):
        ask(reader, reader.hidden(batch), batch, parts, seams, logs)
        told = (parts[tree.owner] for tree in batch.trees)
        advance(sum(len(part.choices) / len(seams[part.item].ids_C) for part in told))


def _tree(seam: Seam, choices: Sequence[int], *, owner: int) -> Tree:
    rows = [seam.ids_C[choice][:-1] for choice in choices]
    return tree_of(rows, owner=owner, first=min(seam.first_C[choice] for choice in choices))
