"""The six stages, in the order of the paper. Sisters never import each other."""

STAGES = ("compact", "design", "inherit", "train", "evaluate", "export")

# What each artifact is made from, in the order of making. Two belong to no stage: `counts`, the
# corpus in the parent's tokens, from which every size and selector starts, and `tokens`, the corpus
# in the child's.
NEEDS: dict[str, tuple[str, ...]] = {
    "counts": (),
    "compact": ("counts",),
    "design": ("compact",),
    "tokens": ("compact",),
    "inherit": ("compact", "design"),
    "train": ("inherit", "tokens"),
    "evaluate": ("train",),
    "export": ("train",),
}

# Part of every artifact's key: raise a stage's number whenever its results change.
VERSIONS = {"counts": 1, "tokens": 1, **dict.fromkeys(STAGES, 1), "compact": 2}
