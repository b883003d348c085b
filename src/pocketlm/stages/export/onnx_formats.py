"""The formats of onnxruntime, each written, read back and run."""

from collections.abc import Callable
from pathlib import Path

from pocketlm.method import Method
from pocketlm.stages.export.delivered import Delivered, Source, delivered
from pocketlm.stages.export.onnx import read_back, write_onnx
from pocketlm.stages.export.onnx_check import check_in_onnxruntime
from pocketlm.stages.export.onnx_graph import Precision


def export_onnx(source: Source, folder: Path, *, precision: Precision) -> Delivered:
    """A folder for onnxruntime and transformers.js."""
    kind = f"onnx-{precision}"
    child, tokenizer, target = source.child, source.tokenizer, folder / kind
    path = write_onnx(child, tokenizer, target, precision=precision, lineage=source.lineage)
    ran = check_in_onnxruntime(path, child, tokenizer, source.check_texts, precision=precision)
    scored = source.score(
        read_back(path, child, precision), "the file's numbers in the network (weights only)"
    )
    num_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return delivered(kind, target, num_bytes, (*ran, *scored))


def export_onnx_f32(source: Source, folder: Path) -> Delivered:
    """A folder for onnxruntime and transformers.js, float32."""
    return export_onnx(source, folder, precision="f32")


def export_onnx_int8(source: Source, folder: Path) -> Delivered:
    """The same with matrices in 8 bit, a scale for each output, embeddings too."""
    return export_onnx(source, folder, precision="int8")


ONNX_FORMATS: dict[str, Method[Callable[[Source, Path], Delivered]]] = {
    "onnx-f32": Method(export_onnx_f32, paper="ONNX operators, opset 17"),
    "onnx-int8": Method(export_onnx_int8, paper="onnxruntime, dynamic quantization, per channel"),
}
