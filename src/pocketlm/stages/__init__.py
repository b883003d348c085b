"""The six stages, in the order of the paper. Sisters never import each other."""

STAGES = ("compact", "design", "inherit", "train", "evaluate", "export")

# Part of every artifact's key: raise a stage's number whenever its results change.
VERSIONS = {"tokens": 1, **dict.fromkeys(STAGES, 1)}
