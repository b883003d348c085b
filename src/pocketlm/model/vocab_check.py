"""Hold a cut checkpoint against its parent: same keys, same logits on the tokens that stayed.

Shapes: V child ids.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketlm.model.vocab_axes import VocabularyAxes

if TYPE_CHECKING:
    import torch

MAX_BYTES = 2 << 30
"""Float32 weights of a parent that is still run, one model at a time."""


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """How far a cut model is from its parent."""

    wrong_keys: tuple[str, ...]
    """Tensors missing or left over when transformers loads the child, but not the parent."""
    num_positions: int
    largest_logit: float
    largest_difference: float
    """Child against the parent's kept columns, in float32."""


def can_run(vocabulary: VocabularyAxes) -> bool:
    """Whether the parent is small enough to be run, and reads token ids alone."""
    import transformers

    model_class = getattr(transformers, vocabulary.architecture)
    is_small = 4 * vocabulary.num_params <= MAX_BYTES
    return is_small and model_class.main_input_name == "input_ids"


def compare_logits(
    vocabulary: VocabularyAxes,
    child: Path,
    kept_V: npt.NDArray[np.int64],
    windows: Sequence[Sequence[int]],
) -> ModelDifference:
    """Run parent and child on `windows`, lists of child ids, one model after the other.

    A model without a head is compared by its last hidden states.
    """
    import torch

    kept = torch.from_numpy(kept_V)
    expected, parent_keys = _outputs(
        vocabulary, vocabulary.folder, [kept[torch.tensor(ids)] for ids in windows], kept
    )
    found, child_keys = _outputs(vocabulary, child, [torch.tensor(ids) for ids in windows], None)
    pairs = list(zip(expected, found, strict=True))
    return ModelDifference(
        wrong_keys=tuple(sorted(child_keys - parent_keys)),
        num_positions=sum(len(ids) for ids in windows),
        largest_logit=max((float(e.abs().max()) for e in expected), default=0.0),
        largest_difference=max((float((f - e).abs().max()) for e, f in pairs), default=0.0),
    )


def _outputs(
    vocabulary: VocabularyAxes,
    folder: Path,
    windows: Sequence["torch.Tensor"],
    kept: "torch.Tensor | None",
) -> tuple[list["torch.Tensor"], set[str]]:
    """First output per window, of the columns `kept` alone if they are given, and wrong keys."""
    import torch
    import transformers

    with _no_bars():
        model, report = getattr(transformers, vocabulary.architecture).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    outputs = []
    for ids in windows:
        inputs = {"input_ids": ids[None]}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids[None]
        with torch.inference_mode():
            output = model.eval()(**inputs)[0]
        has_columns = kept is not None and output.shape[-1] == vocabulary.num_rows
        outputs.append(output[..., kept] if has_columns else output)
    return outputs, {f"{kind}: {key}" for kind, keys in report.items() for key in keys}


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws bars on standard error while it loads; progress is shown elsewhere."""
    from transformers.utils import logging

    settings: Any = logging
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()
