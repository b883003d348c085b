"""Let the model write: a greedy continuation of each context, and the nats of the reference.

Context, reference and (where the seam moved it) the context's own last tokens are one tree, so one
pass both scores the reference and fills the cache that the writing goes on from. Items are written
side by side, rows of like length behind masks that hide padding and reference: on two cores one row
at a time spends most of its time on calls (10 ms a token of a 9M Llama, 2.3 ms with 16 rows).

Shapes: B rows, K columns of the cache, D width, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pocketlm.errors import StageError
from pocketlm.method import pick
from pocketlm.model.timing import greedy_logits
from pocketlm.progress import SILENT, Advance, Progress
from pocketlm.stages.evaluate.choice import (
    ITEMS_AT_ONCE,
    Logs,
    Part,
    Reading,
    Scores,
    ask,
    nats_of,
    record_of,
)
from pocketlm.stages.evaluate.items import Item
from pocketlm.stages.evaluate.reader import Reader, open_reader, padded
from pocketlm.stages.evaluate.seam import SEAMS, Seam, check_lengths, name_of, shorten
from pocketlm.stages.evaluate.trees import Batch, batches, tree_of

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer

BATCH_TOKENS_WRITING = 16_384
"""Padded input read at once at least: many rows make a step of writing cheap."""
_PROMPT = 1  # the branch of a tree that ends in the context's last token


@dataclass(frozen=True, kw_only=True)
class Pen:
    """How much is written, and where it ends."""

    new_tokens: int = 64
    stops: tuple[str, ...] = ("\n",)
    """Any of them ends the text; what is blank before the first word does not count."""
    bare: bool = True
    """Outer blanks go; False: all that is written stays, and counts as a stop, as in lm-eval."""


def write_items(
    network: "PreTrainedModel",
    tokenizer: "Tokenizer",
    items: Sequence[Item],
    *,
    how: Reading,
    pen: Pen | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """One record an item whose only choice is the reference: its nats, and what the model wrote.

    Contexts lose their beginning where context and `pen.new_tokens`, or the reference, would be
    longer than the model reads. Raises as `score_items` does.
    """
    pen = pen or Pen()
    encode = pick(SEAMS, how.seam, "seam")
    reader = open_reader(
        network, autocast=how.autocast, batch_tokens=how.batch_tokens, share=how.share
    )
    records, alone = [], 0
    with progress.task("writing", len(items), "item") as advance:
        for start in range(0, len(items), ITEMS_AT_ONCE):
            some = items[start : start + ITEMS_AT_ONCE]
            seams = [
                _with_room(item, seam, pen.new_tokens, how.context_tokens)
                for item, seam in zip(
                    some, encode(tokenizer, some, how.context_tokens), strict=True
                )
            ]
            check_lengths(some, seams, how.limit)
            logs, new = write_seams(reader, seams, Ends(tokenizer, pen), advance)
            for place, (item, seam) in enumerate(zip(some, seams, strict=True)):
                nats_C = nats_of(place, seam, logs, num_tokens=tokenizer.num_tokens)
                written = text_of(tokenizer, seam, new.get(place, []), pen)
                record = record_of(item, seam, nats_C)
                reference = item.question.reference
                records.append(replace(record, gold=0, written=written, reference=reference))
            alone += sum(len(seam.ids_C[0]) - 1 + len(seam.context_T) for seam in seams)
            alone += sum(max(0, len(tokens) - 1) for tokens in new.values())
    return Scores(records=tuple(records), tokens_read=reader.tokens_read, tokens_alone=alone)


def text_of(tokenizer: "Tokenizer", seam: Seam, new_T: Sequence[int], pen: Pen) -> str:
    """What `new_T` add to the context, up to the first stop; outer blanks go if `pen.bare`.

    Decoded behind the context, because a token alone may lose its blank, and all at once, because
    a character may take several tokens; one that the last token leaves unfinished is dropped.
    """
    context_T = seam.context_T[int(seam.has_prefix) :]
    before, whole = tokenizer.decode(context_T), tokenizer.decode([*context_T, *new_T])
    # Byte pieces are decoded in runs: broken ones may spoil the end of the context too.
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new_T)
    if len(new_T) >= pen.new_tokens:
        text = text.rstrip("\ufffd")
    text = text.lstrip() if pen.bare else text
    ends = [text.find(stop) for stop in pen.stops if stop in text]
    text = text[: min(ends, default=len(text))]
    return text.rstrip() if pen.bare else text


@dataclass(frozen=True)
class Ends:
    """When a text that is being written has ended."""

    tokenizer: "Tokenizer"
    pen: Pen

    def after(self, new_T: Sequence[int]) -> bool:
        """Whether nothing follows: a stop may lie across tokens, so the text is looked at."""
        if len(new_T) >= self.pen.new_tokens:
            return True
        text = self.tokenizer.decode(new_T)
        text = text.lstrip() if self.pen.bare else text
        return any(stop in text for stop in self.pen.stops)


def _with_room(item: Item, seam: Seam, new_tokens: int, context_tokens: int) -> Seam:
    """The seam with so much context that `new_tokens` more can be read; the last is not read."""
    excess = len(seam.context_T) + max(0, new_tokens - 1) - context_tokens
    if excess <= 0:
        return seam
    if excess >= min(seam.first_C):
        raise StageError(
            f"{name_of(item)}: {new_tokens} new tokens, and the model reads {context_tokens}; "
            "give fewer"
        )
    return shorten(seam, excess)


def write_seams(
    reader: Reader, seams: Sequence[Seam], ends: Ends, advance: Advance
) -> tuple[Logs, dict[int, list[int]]]:
    """Logs of the references, and the new tokens by item (none for an empty context)."""
    logs, new = Logs(), dict[int, list[int]]()
    parts = [Part(place, (0,)) for place in range(len(seams))]
    trees, lines = [], []
    for owner, seam in enumerate(seams):
        reference_T, first = seam.ids_C[0][:-1], seam.first_C[0]
        tree = tree_of([reference_T, seam.context_T], owner=owner, first=first)
        if seam.context_T and tree.size <= reader.longest_tree:
            trees.append(tree)
        else:
            lines.append(tree_of([reference_T], owner=owner, first=first))
    for batch in batches(trees, max(reader.batch_tokens, BATCH_TOKENS_WRITING)):
        new |= _write(reader, batch, parts, seams, logs, ends)
        advance(len(batch.trees))
    for batch in batches([t for t in lines if t.size], reader.batch_tokens):
        ask(reader, reader.hidden(batch), batch, parts, seams, logs)
    for tree in lines:
        new[tree.owner] = _write_alone(reader, seams[tree.owner].context_T, ends)
        advance(1)
    return logs, new


def _write(
    reader: Reader,
    batch: Batch,
    parts: Sequence[Part],
    seams: Sequence[Seam],
    logs: Logs,
    ends: Ends,
) -> dict[int, list[int]]:
    """Score the batch's references, then let all rows write until each has ended."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    hidden_BTD = reader.hidden(batch, cache)
    ask(reader, hidden_BTD, batch, parts, seams, logs)
    marks_BK = padded(batch)[2]
    visible_BK = (marks_BK == 0) | (marks_BK == _PROMPT + 1)
    lengths = [len(seams[parts[tree.owner].item].context_T) for tree in batch.trees]
    position_B = torch.tensor(lengths)
    last = [tree.node(_PROMPT, n - 1) for tree, n in zip(batch.trees, lengths, strict=True)]
    hidden_BD = hidden_BTD[range(len(last)), last]
    live = [parts[tree.owner].item for tree in batch.trees]
    new: dict[int, list[int]] = {item: [] for item in live}
    while True:
        tokens = reader.likeliest(hidden_BD)
        stay = list(_staying(live, tokens, new, ends))
        if not stay:
            return new
        if len(stay) < len(live):
            cache = _rows_of(cache, stay)
            live = [live[row] for row in stay]
            visible_BK, position_B = visible_BK[stay], position_B[stay]
        seen_B1 = torch.ones(len(live), 1, dtype=torch.bool)
        visible_BK = torch.cat((visible_BK, seen_B1), dim=1)
        hidden_BD = reader.step([tokens[row] for row in stay], position_B, visible_BK, cache)
        position_B = position_B + 1


def _staying(
    live: Sequence[int], tokens: Sequence[int], new: dict[int, list[int]], ends: Ends
) -> Iterator[int]:
    """Rows that go on; their tokens, and those that end a row, are added to `new`."""
    for row, (item, token) in enumerate(zip(live, tokens, strict=True)):
        if token == ends.tokenizer.eos_id or ends.pen.new_tokens < 1:
            continue
        new[item].append(token)
        if not ends.after(new[item]):
            yield row


def _rows_of(cache: "DynamicCache", rows: list[int]) -> "DynamicCache":
    from transformers import DynamicCache

    return DynamicCache((layer.keys[rows], layer.values[rows]) for layer in cache.layers)


def _write_alone(reader: Reader, context_T: list[int], ends: Ends) -> list[int]:
    """The same for one context, for networks that read no trees."""
    new: list[int] = []
    if not context_T or ends.pen.new_tokens < 1:
        return new
    reader.tokens_read += len(context_T)
    for token, _ in greedy_logits(reader.network, context_T):
        if token == ends.tokenizer.eos_id:
            break
        new.append(token)
        if ends.after(new):
            break
    reader.tokens_read += max(0, len(new) - 1)
    return new
