"""Stage 6, export: files that run on devices, each verified in its own runtime.

A file that does not pass is not delivered.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pocketlm.artifact import Score
from pocketlm.errors import PocketLMError
from pocketlm.method import Method, pick
from pocketlm.stages.export.card import model_card
from pocketlm.stages.export.gguf import Weights, check_gguf_family, import_gguf, write_gguf
from pocketlm.stages.export.huggingface import check_huggingface, write_huggingface
from pocketlm.stages.export.onnx import check_onnx, write_onnx
from pocketlm.stages.export.onnx_check import check_in_onnxruntime
from pocketlm.stages.export.onnx_graph import Precision
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

    @property
    def name(self) -> str:
        """Name of the child."""
        return self.lineage.get("recipe", "child")


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
) -> Exported:
    """Write each of `formats` below `folder` and prove it; the model card comes last.

    `check_texts` are real texts to tokenize and continue. Raises `UserError` for a format that
    cannot hold this child, `StageError` for one that was written and then differed from it.
    """
    methods = {name: pick(FORMATS, name, "[export] formats") for name in formats}
    check_formats(formats, child.shape.family)
    source = Source(child=child, tokenizer=tokenizer, check_texts=check_texts, lineage=lineage)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(method(source, folder) for method in methods.values())
    if "huggingface" in methods:
        num_params = sum(tensor.numel() for tensor in child.tensors.values())
        card = model_card(source.name, child.shape, num_params, lineage, files)
        (folder / "huggingface" / "README.md").write_text(card, encoding="utf-8")
    return Exported(files=files)


def export_huggingface(source: Source, folder: Path) -> Delivered:
    """A folder for transformers, and for everything that reads its format."""
    target = folder / "huggingface"
    write_huggingface(source.child, source.tokenizer, target)
    num_texts = check_huggingface(target, source.child, source.tokenizer, source.check_texts)
    note = f"strict keys, logits bit-equal, same tokens for {num_texts} of {num_texts} texts"
    checks = (Check(name="equal", value=1, unit="share", note=note),)
    num_bytes = sum(path.stat().st_size for path in target.iterdir())
    return _delivered("huggingface", target, num_bytes, checks)


def export_gguf(source: Source, folder: Path, *, weights: Weights) -> Delivered:
    """One file for llama.cpp, removed again if it does not pass."""
    check_gguf_family(source.child.shape.family)
    import_gguf()
    kind = f"gguf-{weights.lower()}"
    target = folder / f"{source.name}-{weights.lower()}.gguf"
    child, tokenizer, texts = source.child, source.tokenizer, source.check_texts
    try:
        vocabulary = write_gguf(child, tokenizer, target, weights=weights, lineage=source.lineage)
        read, tensors = check_tensors(target, child, weights)
        ran = check_in_llama_cpp(
            target, read, child, tokenizer, vocabulary, TOLERANCE[weights], texts
        )
    except PocketLMError:
        target.unlink(missing_ok=True)
        raise
    return _delivered(kind, target, target.stat().st_size, (tensors, *ran))


def export_f16(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 16 bit."""
    return export_gguf(source, folder, weights="F16")


def export_q8_0(source: Source, folder: Path) -> Delivered:
    """A file for llama.cpp with matrices in 8 bit, a scale for every 32 weights."""
    return export_gguf(source, folder, weights="Q8_0")


def export_onnx(source: Source, folder: Path, *, precision: Precision) -> Delivered:
    """A folder for onnxruntime and transformers.js; it appears when it has passed."""
    kind = f"onnx-{precision}"
    child, tokenizer, target = source.child, source.tokenizer, folder / kind
    with TemporaryDirectory(prefix=".writing-", dir=folder) as made:
        work = Path(made) / kind
        path = write_onnx(child, tokenizer, work, precision=precision, lineage=source.lineage)
        texts = source.check_texts
        checks = check_in_onnxruntime(path, child, tokenizer, texts, precision=precision)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return _delivered(kind, target, num_bytes, checks)


def export_onnx_f32(source: Source, folder: Path) -> Delivered:
    """A folder for onnxruntime and transformers.js, float32."""
    return export_onnx(source, folder, precision="f32")


def export_onnx_int8(source: Source, folder: Path) -> Delivered:
    """The same with matrices in 8 bit, a scale for each output, embeddings too."""
    return export_onnx(source, folder, precision="int8")


FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "huggingface": Method(export_huggingface, paper="transformers, safetensors layout"),
    "gguf-f16": Method(export_f16, paper="ggml-org/ggml, docs/gguf.md"),
    "gguf-q8_0": Method(export_q8_0, paper="ggml-org/ggml, docs/gguf.md; Q8_0 blocks"),
    "onnx-f32": Method(export_onnx_f32, paper="ONNX operators, opset 17"),
    "onnx-int8": Method(export_onnx_int8, paper="onnxruntime, dynamic quantization, per channel"),
}


def check_formats(formats: Sequence[str], family: str) -> None:
    """Raise `UserError` for a format that has no place for `family`, or an onnx one that this
    machine cannot run, before anything is made."""
    if any(name.startswith("gguf") for name in formats):
        check_gguf_family(family)
    if any(name.startswith("onnx") for name in formats):
        check_onnx(family)


def _delivered(kind: str, target: Path, num_bytes: int, checks: tuple[Check, ...]) -> Delivered:
    words = "; ".join(check.note for check in checks if check.note)
    return Delivered(
        format=kind, path=target.name, num_bytes=num_bytes, verified=words, checks=checks
    )
