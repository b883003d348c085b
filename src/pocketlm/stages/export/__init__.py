"""Stage 6, export: files that run on devices, each verified in its own runtime.

A file that does not pass is not delivered.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.method import Method, pick
from pocketlm.stages.export.architectures import check_gguf_config, check_gguf_family
from pocketlm.stages.export.card import write_cards
from pocketlm.stages.export.delivered import Delivered as Delivered
from pocketlm.stages.export.delivered import Exported as Exported
from pocketlm.stages.export.delivered import Source as Source
from pocketlm.stages.export.delivered import delivered
from pocketlm.stages.export.gguf_formats import GGUF_FORMATS
from pocketlm.stages.export.huggingface import (
    check_huggingface,
    load_strictly,
    write_huggingface,
)
from pocketlm.stages.export.k_quants import check_quantizer, is_k_quant
from pocketlm.stages.export.onnx import check_onnx
from pocketlm.stages.export.onnx_formats import ONNX_FORMATS
from pocketlm.stages.export.placing import placed_together
from pocketlm.stages.export.quality import predict, time_in_transformers
from pocketlm.stages.export.terms import PLAIN_TERMS, Terms, check_delivered, check_planned
from pocketlm.stages.export.verify import Check
from pocketlm.stages.export.vocabulary import vocabulary_of

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


def export(
    child: "Child",
    tokenizer: "Tokenizer",
    folder: Path,
    *,
    formats: Sequence[str],
    check_texts: Sequence[str],
    lineage: Mapping[str, str],
    terms: Terms = PLAIN_TERMS,
) -> Exported:
    """Write each of `formats` below `folder` and prove it; the model card comes last.

    `check_texts` are real texts to tokenize and continue. Files appear together at the end, or not
    at all. Raises `UserError` for a format that cannot hold this child, `BudgetError` for a file
    over its budget, `StageError` for one that was written and then differed from the child.
    """
    methods = {name: pick(FORMATS, name, "[export] formats") for name in formats}
    check_formats(formats, child.shape.family, child.config)
    check_planned(child.shape, formats, terms)
    source = Source(
        child=child, tokenizer=tokenizer, check_texts=check_texts, lineage=lineage, terms=terms
    )
    with placed_together(folder) as made:
        files = []
        for name, method in methods.items():
            files.append(method(source, made))
            check_delivered(name, files[-1].num_bytes, terms)
        write_cards(made, source.name, child, lineage, files)
    return Exported(files=tuple(files))


def export_huggingface(source: Source, folder: Path) -> Delivered:
    """A folder for transformers, and for everything that reads its format."""
    target, terms = folder / "huggingface", source.terms
    write_huggingface(source.child, source.tokenizer, target)
    num_texts = check_huggingface(target, source.child, source.tokenizer, source.check_texts)
    note = f"strict keys, logits bit-equal, same tokens for {num_texts} of {num_texts} texts"
    checks = (
        Check(name="equal", value=1, unit="share", note=note),
        *source.score(None, "logits bit-equal to the child's"),
        *time_in_transformers(lambda: load_strictly(target), terms.speed_tokens),
        *predict(source.child, "huggingface", terms),
    )
    num_bytes = sum(path.stat().st_size for path in target.iterdir())
    return delivered("huggingface", target, num_bytes, checks)


FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "huggingface": Method(export_huggingface, paper="transformers, safetensors layout"),
    **GGUF_FORMATS,
    **ONNX_FORMATS,
}


def check_formats(
    formats: Sequence[str],
    family: str,
    config: Mapping[str, Any] | None = None,
    *,
    layers_may_leave: bool = False,
) -> None:
    """Raise `UserError` for a format that has no place for `family`, before anything is made.

    With `config`, the child's or, where `layers_may_leave`, its parent's, also for what in it the
    format's runtime cannot run.
    """
    if any(name.startswith("gguf") for name in formats):
        check_gguf_family(family)
        if config is not None:
            check_gguf_config(config, layers_may_leave=layers_may_leave)
    if any(name.startswith("onnx") for name in formats):
        check_onnx(family)
    for name in filter(is_k_quant, formats):
        check_quantizer(name)


def check_tokenizer(formats: Sequence[str], tokenizer: "Tokenizer") -> None:
    """Raise `UserError` for a tokenizer, whole or yet to be compacted, that a format has no place
    for."""
    if any(name.startswith("gguf") for name in formats):
        vocabulary_of(tokenizer, tokenizer.num_tokens)
