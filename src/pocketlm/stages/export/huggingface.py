"""A transformers folder: config, generation settings, weights, tokenizer.

Loads without any code, but for a class that is ours, whose file is in the folder too. A tied head
is not stored twice. Verified by loading it as a user would.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.errors import StageError
from pocketlm.model.checkpoint import save_child
from pocketlm.model.network import register_own_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


def write_huggingface(child: "Child", tokenizer: "Tokenizer", folder: Path) -> None:
    """Write the folder; config and generation settings name the tokenizer's own special ids."""
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_child(replace(child, config={**child.config, **special}), folder)
    settings = {key: value for key, value in special.items() if value is not None}
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    tokenizer.save(folder)


def check_huggingface(
    folder: Path, child: "Child", tokenizer: "Tokenizer", texts: Sequence[str]
) -> int:
    """Load it by the Auto classes; the number of texts compared.

    Raises `StageError` unless every key matches, logits equal the child's bit for bit, and ids
    equal the tokenizer's on all `texts`.
    """
    from transformers import AutoTokenizer

    reloaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids_N = tokenizer.encode_batch(list(texts))
    added = [tokenizer.bos_id] if tokenizer.adds_bos else []
    for text, ids in zip(texts, ids_N, strict=True):
        # Text is text here: a special token's name inside it is not a special token.
        own = reloaded(text, split_special_tokens=True)["input_ids"]
        if own != [*added, *ids]:
            raise StageError(f"export: transformers cuts {text[:40]!r} into other tokens")
    register_own_class(child.shape.family)
    _check_logits(load_strictly(folder), child, ids_N)
    return len(texts)


def load_strictly(folder: Path) -> "PreTrainedModel":
    """The folder as a user loads it; raises `StageError` for a key missing or left over."""
    from transformers import AutoModelForCausalLM

    with _no_bars():
        network, report = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise StageError(f"export: transformers does not load the weights as they are: {wrong}")
    return network.eval()


def _check_logits(
    network: "PreTrainedModel", child: "Child", ids_N: Sequence[Sequence[int]]
) -> None:
    import torch

    # Texts are empty or absent only in toys; any legal ids will do there.
    longest = max(ids_N, key=len, default=[])[:64] or list(range(min(64, child.shape.vocab_size)))
    ids_1T = torch.tensor([list(longest)])
    with torch.inference_mode():
        same = torch.equal(network(ids_1T).logits, child.network()(ids_1T).logits)
    if not same:
        raise StageError("export: the reloaded network gives other logits than the child")


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
