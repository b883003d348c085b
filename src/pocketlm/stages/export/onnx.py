"""ONNX, the file that onnxruntime runs, on phones and in browsers too: network and cache in one.

The graph is written node by node from the child's tensors: no tracing, the same child gives the
same bytes. Around it lies what transformers.js expects of a folder: `onnx/model.onnx` or
`onnx/model_int8.onnx`, config, generation settings and tokenizer.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import StageError, UserError
from pocketlm.model.family import load_family
from pocketlm.stages.export.onnx_graph import (
    IR_VERSION,
    OPSET,
    FloatArray,
    Graph,
    Precision,
    import_onnx,
)
from pocketlm.stages.export.onnx_network import check_onnx_family, write_network
from pocketlm.units import show_bytes

if TYPE_CHECKING:
    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child

FILES: Mapping[Precision, str] = {"f32": "model.onnx", "int8": "model_int8.onnx"}
"""Names that transformers.js gives to precisions."""

MOST_BYTES = 2**31 - 1
"""Of one file: the limit of protocol buffers."""

_NOT_FOR_A_READER = ("auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path")


def check_onnx(family: str) -> None:
    """Raise `UserError` where `family` or this machine has no onnx files."""
    check_onnx_family(family)
    import_onnx()


def write_onnx(
    child: "Child",
    tokenizer: "Tokenizer",
    folder: Path,
    *,
    precision: Precision,
    lineage: Mapping[str, str],
) -> Path:
    """Write a folder for transformers.js; the path of the model in it.

    Raises `UserError` for a family, activation, rotary scaling or size that has no onnx files.
    """
    check_onnx(child.shape.family)
    graph = _graph(child, precision)
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    kept = {k: v for k, v in child.config.items() if k not in _NOT_FOR_A_READER}
    architecture = load_family(child.shape.family).architecture
    path = folder / "onnx" / FILES[precision]
    path.parent.mkdir(parents=True)
    path.write_bytes(_model(graph, lineage).SerializeToString(deterministic=True))
    _write_json(folder / "config.json", {**kept, **special, "architectures": [architecture]})
    settings = {key: value for key, value in special.items() if value is not None}
    _write_json(folder / "generation_config.json", settings)
    tokenizer.save(folder)
    return path


def read_back(path: Path, child: "Child", precision: Precision) -> "Child":
    """A child of the numbers in the file; raises `StageError` where they are not the child's.

    Matrices of 8 bits come as the numbers they stand for: each within half a step of its own.
    """
    import torch

    onnx, graph = import_onnx(), _graph(child, precision)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
    }
    if stored.keys() != graph.numbers.keys():
        raise StageError(f"export: {path.name} does not hold the child's tensors, each once")
    tensors = dict(child.tensors)
    for name, expected in graph.numbers.items():
        if name not in graph.matrices and not np.array_equal(stored[name], expected):
            raise StageError(f"export: {path.name} does not hold the child's {name}")
    for name, matrix in graph.matrices.items():
        values_IO, exact_IO = stored[name], matrix.values_IO(child)
        allowed: FloatArray | float = 0.0
        if precision == "int8":
            scale_O = stored[f"{name}.scale"]
            values_IO, allowed = values_IO * scale_O, scale_O * np.float32(0.5001)
        if values_IO.shape != exact_IO.shape or not (abs(values_IO - exact_IO) <= allowed).all():
            raise StageError(f"export: {path.name} does not hold the child's {name}")
        parts = matrix.tensors(values_IO, child)
        tensors |= {source: torch.from_numpy(part.copy()) for source, part in parts.items()}
    return replace(child, tensors=tensors)


def _graph(child: "Child", precision: Precision) -> Graph:
    graph = Graph(child.held(), precision)
    write_network(graph)
    num_bytes = sum(numbers.nbytes for numbers in graph.numbers.values())
    if num_bytes > MOST_BYTES:
        raise UserError(
            f"[export] formats: onnx-{precision} would be {show_bytes(num_bytes)}; one file holds "
            f"{show_bytes(MOST_BYTES)} at most; choose onnx-int8, gguf or huggingface"
        )
    return graph


def _model(graph: Graph, lineage: Mapping[str, str]) -> Any:
    helper, numpy_helper = import_onnx().helper, import_onnx().numpy_helper
    inputs, outputs = _places(graph.child)
    made = helper.make_graph(
        graph.nodes,
        lineage.get("recipe", "child"),
        inputs,
        outputs,
        [numpy_helper.from_array(numbers, name) for name, numbers in graph.numbers.items()],
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pocketlm",
    )
    told = {f"pocketlm.{key.replace(' ', '_')}": value for key, value in lineage.items()}
    helper.set_model_props(model, told)
    return model


def _places(child: "Child") -> tuple[list[Any], list[Any]]:
    """Inputs and outputs with their shapes; what varies from call to call has a name."""
    onnx, shape = import_onnx(), child.shape
    floats, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    place = onnx.helper.make_tensor_value_info
    batch, new, past, total = "batch_size", "sequence_length", "past_length", "total_length"
    inputs = [
        place("input_ids", whole, [batch, new]),
        place("attention_mask", whole, [batch, total]),
    ]
    outputs = [place("logits", floats, [batch, new, shape.vocab_size])]
    for layer in range(shape.layers):
        for kind in ("key", "value"):
            dims = [batch, shape.kv_heads, past, shape.head_dim]
            inputs.append(place(f"past_key_values.{layer}.{kind}", floats, dims))
            dims = [batch, shape.kv_heads, total, shape.head_dim]
            outputs.append(place(f"present.{layer}.{kind}", floats, dims))
    return inputs, outputs


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
