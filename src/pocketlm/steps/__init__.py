"""How each stage reads what it needs and fills its artifact folder. Arithmetic is in `stages/`."""

from collections.abc import Callable
from pathlib import Path

from pocketlm.steps.materials import Materials, Scores
from pocketlm.steps.results import evaluate_step, export_step
from pocketlm.steps.shape import decide_shape, design_step
from pocketlm.steps.vocabulary import compact_step, counts_step, tokens_step
from pocketlm.steps.weights import calibration_step, inherit_step, teacher_step, train_step

__all__ = ["STEPS", "Materials", "decide_shape"]

Step = Callable[[Materials, Path, Path], Scores]
STEPS: dict[str, Step] = {
    "counts": counts_step,
    "compact": compact_step,
    "design": design_step,
    "tokens": tokens_step,
    "calibration": calibration_step,
    "inherit": inherit_step,
    "teacher": teacher_step,
    "train": train_step,
    "evaluate": evaluate_step,
    "export": export_step,
}
