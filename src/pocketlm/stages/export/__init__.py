"""Stage 6, export: files that run on devices, each verified in its own runtime.

A file that does not pass is not delivered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.artifact import Score
from pocketlm.method import Method, pick
from pocketlm.stages.export.architectures import check_gguf_config, check_gguf_family
from pocketlm.stages.export.card import write_cards
from pocketlm.stages.export.gguf import import_gguf, write_gguf
from pocketlm.stages.export.huggingface import (
    check_huggingface,
    load_strictly,
    write_huggingface,
)
from pocketlm.stages.export.placing import placed_together
from pocketlm.stages.export.quality import (
    predict,
    score_file,
    time_in_llama_cpp,
    time_in_transformers,
)
from pocketlm.stages.export.quantise import Weights
from pocketlm.stages.export.terms import Terms, check_delivered, check_planned
from pocketlm.stages.export.verify import (
    TOLERANCE,
    Check,
    check_in_llama_cpp,
    check_tensors,
)

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


@dataclass(frozen=True, kw_only=True)
class Source:
    """What every format is written from."""

    child: "Child"
    tokenizer: "Tokenizer"
    check_texts: Sequence[str]
    lineage: Mapping[str, str]
    """What the child comes from, in words; `recipe` also names gguf files."""
    terms: Terms = Terms()

    @property
    def name(self) -> str:
        """Name of the child."""
        return self.lineage.get("recipe", "child")

    @cached_property
    def bits_per_byte(self) -> float | None:
        """The trained child's own, which every file is held against; None: not scored."""
        score = self.terms.bits_per_byte
        return None if score is None else score(self.child.network())

    def score(self, read: "Child | None", how: str) -> tuple[Check, ...]:
        """Bits per byte of a file whose numbers are `read`; None: they are the child's."""
        score, own = self.terms.bits_per_byte, self.bits_per_byte
        if score is None or own is None:
            return ()
        return score_file(own if read is None else score(read.network()), own, how)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """One format on disk, proven."""

    format: str
    path: str
    """The file, or the folder of files, below the export folder."""
    num_bytes: int
    """All of its files together."""
    verified: str
    """What was compared before it counted as delivered, in words."""
    checks: tuple[Check, ...]
    """The same in numbers, and what was measured on the way."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Every format asked for."""

    files: tuple[Delivered, ...]

    @property
    def scores(self) -> dict[str, Score]:
        """`FORMAT.bytes` and `FORMAT.CHECK`."""
        scores: dict[str, Score] = {}
        for file in self.files:
            scores[f"{file.format}.bytes"] = Score(file.num_bytes, "bytes")
            scores |= {f"{file.format}.{c.name}": Score(c.value, c.unit) for c in file.checks}
        return scores


def export(
    child: "Child",
    tokenizer: "Tokenizer",
    folder: Path,
    *,
    formats: Sequence[str],
    check_texts: Sequence[str],
    lineage: Mapping[str, str],
    terms: Terms | None = None,
) -> Exported:
    """Write each of `formats` below `folder` and prove it; the model card comes last.

    `check_texts` are real texts to tokenize and continue. Files appear together at the end, or not
    at all. Raises `UserError` for a format that cannot hold this child, `BudgetError` for a file
    over its budget, `StageError` for one that was written and then differed from the child.
    """
    terms = terms or Terms()
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
    return _delivered("huggingface", target, num_bytes, checks)


def export_gguf(source: Source, folder: Path, *, weights: Weights) -> Delivered:
    """One file for llama.cpp."""
    import_gguf()
    kind, terms = f"gguf-{weights.lower()}", source.terms
    target = folder / f"{source.name}-{weights.lower()}.gguf"
    child, tokenizer, texts = source.child, source.tokenizer, source.check_texts
    vocabulary = write_gguf(
        child, tokenizer, target, weights=weights, lineage=source.lineage, choice=terms.choice
    )
    read, tensors = check_tensors(target, child, weights, terms.choice)
    ran = check_in_llama_cpp(target, read, child, tokenizer, vocabulary, TOLERANCE[weights], texts)
    checks = (
        tensors,
        *ran,
        *source.score(read, "weights only"),
        *time_in_llama_cpp(target, child.shape.vocab_size, terms.speed_tokens),
        *predict(child, kind, terms),
    )
    return _delivered(kind, target, target.stat().st_size, checks)


def export_f32(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with the child's own numbers."""
    return export_gguf(source, folder, weights="F32")


def export_f16(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 16 bit."""
    return export_gguf(source, folder, weights="F16")


def export_bf16(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in bfloat16: float32's range, 8 bits of precision."""
    return export_gguf(source, folder, weights="BF16")


def export_q8_0(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 8 bit, a scale for every 32 weights."""
    return export_gguf(source, folder, weights="Q8_0")


def export_q5_0(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 5 bit, a scale of least squares for every 32."""
    return export_gguf(source, folder, weights="Q5_0")


def export_q4_0(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 4 bit, a scale of least squares for every 32."""
    return export_gguf(source, folder, weights="Q4_0")


FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "huggingface": Method(export_huggingface, paper="transformers, safetensors layout"),
    "gguf-f32": Method(export_f32, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-f16": Method(export_f16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-bf16": Method(export_bf16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-q8_0": Method(export_q8_0, paper="ggml-org/ggml, docs/gguf.md; Q8_0 blocks"),
    "gguf-q5_0": Method(export_q5_0, paper="ggml-org/ggml, docs/gguf.md; Q5_0 blocks"),
    "gguf-q4_0": Method(export_q4_0, paper="ggml-org/ggml, docs/gguf.md; Q4_0 blocks"),
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


def _delivered(kind: str, target: Path, num_bytes: int, checks: tuple[Check, ...]) -> Delivered:
    words = "; ".join(check.note for check in checks if check.note)
    return Delivered(
        format=kind, path=target.name, num_bytes=num_bytes, verified=words, checks=checks
    )
