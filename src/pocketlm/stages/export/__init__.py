"""Stage 6, export: files that run on devices, each verified in its own runtime.

A file that does not pass is not delivered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from pocketlm.stages.export.k_quants import check_quantizer, is_k_quant, requantise
from pocketlm.stages.export.placing import placed_together
from pocketlm.stages.export.quality import (
    predict,
    score_file,
    time_in_llama_cpp,
    time_in_transformers,
)
from pocketlm.stages.export.quantise import Weights
from pocketlm.stages.export.terms import PLAIN_TERMS, Terms, check_delivered, check_planned
from pocketlm.stages.export.verify import (
    TOLERANCE,
    Check,
    Tolerance,
    check_in_llama_cpp,
    check_tensors,
    read_back,
)
from pocketlm.stages.export.vocabulary import Vocabulary

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
    terms: Terms = PLAIN_TERMS

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
    return _delivered("huggingface", target, num_bytes, checks)


def export_gguf(source: Source, folder: Path, *, weights: Weights) -> Delivered:
    """One file for llama.cpp."""
    import_gguf()
    target = folder / f"{source.name}-{weights.lower()}.gguf"
    vocabulary = _write(source, target, weights)
    read, tensors = check_tensors(target, source.child, weights, source.terms.choice)
    tolerance = TOLERANCE[weights]
    return _run(source, f"gguf-{weights.lower()}", target, (read, tensors), vocabulary, tolerance)


def export_k_quant(source: Source, folder: Path, *, kind: str) -> Delivered:
    """One file for llama.cpp in widths that it chooses itself."""
    import_gguf()
    check_quantizer(f"gguf-{kind.lower()}")
    wide, target = folder / ".f32.gguf", folder / f"{source.name}-{kind.lower()}.gguf"
    vocabulary = _write(replace(source, terms=PLAIN_TERMS), wide, "F32")
    requantise(wide, target, kind)
    wide.unlink()
    read = read_back(target, source.child, "F32", requantised=True)
    note = "every tensor read back, near the child's as its width allows"
    checked = (read, Check(name="tensors_near", value=1, unit="share", note=note))
    return _run(source, f"gguf-{kind.lower()}", target, checked, vocabulary, TOLERANCE["Q4_0"])


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


def export_q4_k_m(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp in 4 and 6 bit mixed, by llama.cpp's own llama-quantize."""
    return export_k_quant(source, folder, kind="Q4_K_M")


FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "huggingface": Method(export_huggingface, paper="transformers, safetensors layout"),
    "gguf-f32": Method(export_f32, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-f16": Method(export_f16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-bf16": Method(export_bf16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-q8_0": Method(export_q8_0, paper="ggml-org/ggml, docs/gguf.md; Q8_0 blocks"),
    "gguf-q5_0": Method(export_q5_0, paper="ggml-org/ggml, docs/gguf.md; Q5_0 blocks"),
    "gguf-q4_0": Method(export_q4_0, paper="ggml-org/ggml, docs/gguf.md; Q4_0 blocks"),
    "gguf-q4_k_m": Method(export_q4_k_m, paper="ggml-org/llama.cpp, tools/quantize"),
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
    for name in filter(is_k_quant, formats):
        check_quantizer(name)


def _write(source: Source, target: Path, weights: Weights) -> Vocabulary:
    lineage, choice = source.lineage, source.terms.choice
    return write_gguf(
        source.child, source.tokenizer, target, weights=weights, lineage=lineage, choice=choice
    )


def _run(
    source: Source,
    kind: str,
    target: Path,
    checked: tuple["Child", Check],
    vocabulary: Vocabulary,
    tolerance: Tolerance,
) -> Delivered:
    """What llama.cpp makes of a file whose tensors were read back, and what the file is worth."""
    (read, tensors), child, terms = checked, source.child, source.terms
    ran = check_in_llama_cpp(
        target, read, child, source.tokenizer, vocabulary, tolerance, source.check_texts
    )
    checks = (
        tensors,
        *ran,
        *source.score(read, "weights only"),
        *time_in_llama_cpp(target, child.shape.vocab_size, terms.speed_tokens),
        *predict(child, kind, terms),
    )
    return _delivered(kind, target, target.stat().st_size, checks)


def _delivered(kind: str, target: Path, num_bytes: int, checks: tuple[Check, ...]) -> Delivered:
    words = "; ".join(check.note for check in checks if check.note)
    return Delivered(
        format=kind, path=target.name, num_bytes=num_bytes, verified=words, checks=checks
    )
