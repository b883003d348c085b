"""The six stages, in the order of the paper. Sisters never import each other."""

STAGES = ("compact", "design", "inherit", "train", "evaluate", "export")

# What each artifact is made from, in the order of making. Four belong to no stage: `counts`, the
# corpus in the parent's tokens, from which every size and selector starts, `tokens`, the corpus in
# the child's, `calibration`, what the parent does on some of those, whatever the child's size (but
# for learned masks, see pipeline.needs_of), and `teacher`, what it predicts of all of them, made
# only for recipes that learn from it.
NEEDS: dict[str, tuple[str, ...]] = {
    "counts": (),
    "compact": ("counts",),
    "design": ("compact",),
    "tokens": ("compact",),
    "calibration": ("compact", "tokens"),
    "inherit": ("compact", "design", "calibration"),
    "teacher": ("compact", "tokens"),
    "train": ("inherit", "tokens"),
    "evaluate": ("train",),
    "export": ("train",),
}

# Part of every artifact's key: raise a stage's number whenever its results change.
VERSIONS = {
    **dict.fromkeys(NEEDS, 1),
    "compact": 2,
    "inherit": 2,
    "train": 2,
}
