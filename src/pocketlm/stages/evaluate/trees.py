"""What one item makes the network read: a trunk that its choices share, and a branch for each.

    trunk . branch 1 . branch 2 . ...      one row, read in one pass

A branch sees the trunk and itself, at the positions that follow the trunk, so each choice is read
as if it stood alone behind the context, and the context is read once. The last token of a choice
predicts nothing and is not read: choices of one token need no branch at all. Items that begin alike
(few-shot examples) form a group, whose common beginning is read once and kept as keys and values.

Shapes: B rows of a batch, T tokens of a row, G tokens of the group's common beginning, K = G + T.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pocketlm.stages.evaluate.seam import common_length

LEAST_SAVED = 256
"""Tokens that sharing must save: a pass more costs about as much as reading some dozens."""
LEAST_SHARE = 1 / 8
"""The same as a share of the group's tokens: attention to kept keys needs a mask."""
KEPT_OVER_READ = 4
"""Tokens a batch may hold as keys and values, over those it may read."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Rows of tokens that begin alike, folded together."""

    owner: int
    """Whose it is, for whoever made it."""
    trunk: list[int]
    branches: tuple[list[int], ...]
    first: int
    """Place of the first token whose prediction is wanted; what is before may be shared."""

    @property
    def size(self) -> int:
        """Tokens to read."""
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def is_line(self) -> bool:
        """Whether it is one row of tokens, which plain causal attention reads."""
        return sum(map(bool, self.branches)) <= 1

    def node(self, branch: int, place: int) -> int:
        """Where token `place` of row `branch` stands among the tokens read."""
        if place < len(self.trunk):
            return place
        return place + sum(map(len, self.branches[:branch]))

    def flat(self) -> tuple[list[int], list[int], list[int]]:
        """Ids, positions and branch numbers (0: trunk) of the tokens read."""
        ids, positions = list(self.trunk), list(range(len(self.trunk)))
        marks = [0] * len(self.trunk)
        for number, branch in enumerate(self.branches, start=1):
            ids += branch
            positions += range(len(self.trunk), len(self.trunk) + len(branch))
            marks += [number] * len(branch)
        return ids, positions, marks


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Trees that are read together, behind `shared` tokens that all of them begin with."""

    trees: tuple[Tree, ...]
    shared: int
    width: int
    """Tokens of the largest, what is shared left out."""

    @property
    def is_plain(self) -> bool:
        """Whether plain causal attention from position 0 reads it."""
        return self.shared == 0 and all(tree.is_line for tree in self.trees)


def tree_of(rows: Sequence[list[int]], *, owner: int, first: int) -> Tree:
    """Fold rows of input ids; each is branch k's path. Rows may be empty."""
    shortest = min(rows, key=len)
    length = min(common_length(shortest, row) for row in rows)
    branches = tuple(row[length:] for row in rows)
    return Tree(owner=owner, trunk=shortest[:length], branches=branches, first=first)


def batches(
    trees: Sequence[Tree], batch_tokens: int, *, longest_shared: int = 0
) -> Iterator[Batch]:
    """Trees of like size together, the largest first, `batch_tokens` of padded input each.

    Trees of at most `longest_shared` tokens may share their beginning; a group's batches follow
    each other. Longer ones never stand beside them: a mask made here would widen their window.
    """
    short = [tree for tree in trees if tree.size <= longest_shared]
    long = [tree for tree in trees if tree.size > longest_shared]
    for shared, group in [*_groups(short), (0, long)]:
        waiting = sorted(group, key=lambda tree: -tree.size)
        while waiting:
            width = max(1, waiting[0].size - shared)
            kept = KEPT_OVER_READ * batch_tokens // (shared + width)
            rows = max(1, min(batch_tokens // width, kept))
            yield Batch(trees=tuple(waiting[:rows]), shared=shared, width=width)
            waiting = waiting[rows:]


def _groups(trees: Sequence[Tree]) -> Iterator[tuple[int, list[Tree]]]:
    """Trees by common beginning: groups that save enough, then all others with nothing shared."""
    alone: list[Tree] = []
    for shared, group in _runs(sorted(trees, key=lambda tree: tree.trunk)):
        saved, read = (len(group) - 1) * shared, sum(tree.size for tree in group)
        if saved >= max(LEAST_SAVED, LEAST_SHARE * read):
            yield shared, group
        else:
            alone += group
    if alone:
        yield 0, alone


def _runs(ordered: list[Tree]) -> Iterator[tuple[int, list[Tree]]]:
    """Cut sorted trees where neighbours have less than half in common of what is usual there."""
    heads = [tree.trunk[: max(0, tree.first - 1)] for tree in ordered]  # predicts nothing wanted
    common = [0, *map(common_length, heads, heads[1:]), 0]  # before each tree, and behind the last
    begin = 0
    for end in range(1, len(ordered) + 1):
        around = max(common[end - 1], common[min(end + 1, len(ordered))])
        if end == len(ordered) or 2 * common[end] < around:
            inside = common[begin + 1 : end]
            yield min(inside, default=0), ordered[begin:end]
            begin = end
