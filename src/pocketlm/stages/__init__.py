"""The six stages, in the order of the paper. Sisters never import each other."""

STAGES = ("compact", "design", "inherit", "train", "evaluate", "export")

# What each artifact is made from, in the order of making. `tokens` is the corpus in the child's
# vocabulary; it belongs to no stage and to several.
NEEDS: dict[str, tuple[str, ...]] = {
    "compact": (),
    "design": ("compact",),
    "tokens": ("compact",),
    "inherit": ("compact", "design"),
    "train": ("inherit", "tokens"),
    "evaluate": ("train",),
    "export": ("train",),
}

# Part of every artifact's key: raise a stage's number whenever its results change.
VERSIONS = {"tokens": 1, **dict.fromkeys(STAGES, 1)}
