"""The formats of llama.cpp, each written, read back and run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.method import Method
from pocketlm.stages.export.delivered import Delivered, Source, delivered
from pocketlm.stages.export.gguf import import_gguf, write_gguf
from pocketlm.stages.export.k_quants import check_quantizer, requantise
from pocketlm.stages.export.quality import predict, time_in_llama_cpp
from pocketlm.stages.export.quantise import Weights
from pocketlm.stages.export.terms import PLAIN_TERMS
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
    from pocketlm.model.child import Child


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


GGUF_FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "gguf-f32": Method(export_f32, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-f16": Method(export_f16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-bf16": Method(export_bf16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-q8_0": Method(export_q8_0, paper="ggml-org/ggml, docs/gguf.md; Q8_0 blocks"),
    "gguf-q5_0": Method(export_q5_0, paper="ggml-org/ggml, docs/gguf.md; Q5_0 blocks"),
    "gguf-q4_0": Method(export_q4_0, paper="ggml-org/ggml, docs/gguf.md; Q4_0 blocks"),
    "gguf-q4_k_m": Method(export_q4_k_m, paper="ggml-org/llama.cpp, tools/quantize"),
}


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
    return delivered(kind, target, target.stat().st_size, checks)
