"""GGUF, the file llama.cpp runs: matrices in 32 to 4 bit, float32 norms, the tokenizer inside.

What llama.cpp calls a family and how it turns heads is in `architectures`, how numbers are kept in
`quantise`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.errors import StageError, UserError
from pocketlm.model.family import tensors_of
from pocketlm.model.network import model_config
from pocketlm.stages.export.architectures import (
    Architecture,
    FloatArray,
    architecture_of,
    check_gguf_config,
    rope_factors,
    write_rope,
)
from pocketlm.stages.export.quantise import PLAIN, Choice, Weights, kind_of, quantised
from pocketlm.stages.export.vocabulary import PieceType, Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor under llama.cpp's name, in its row order, and how its numbers are kept."""

    name: str
    source: str
    """The child's name of it; empty for what the child computes instead of storing."""
    values: FloatArray
    weights: Weights


def write_gguf(
    child: "Child",
    tokenizer: "Tokenizer",
    path: Path,
    *,
    weights: Weights,
    lineage: Mapping[str, str],
    choice: Choice = PLAIN,
) -> Vocabulary:
    """Write one file; the same child gives the same bytes. Returns the vocabulary it holds.

    Raises `UserError` for a family, rotary scaling or tokenizer llama.cpp cannot run.
    """
    gguf = import_gguf()
    config, architecture = _config(child)
    vocabulary = vocabulary_of(tokenizer, child.shape.vocab_size)
    writer = gguf.GGUFWriter(path, architecture.name)
    _write_lineage(writer, weights, lineage)
    _write_shape(writer, child, config)
    _write_vocabulary(writer, tokenizer, vocabulary)
    _write_tensors(writer, stored_tensors(child, weights, choice))
    return vocabulary


def write_wordless_gguf(child: "Child", path: Path, *, weights: Weights) -> None:
    """A file with the weights of `child` and made-up words: enough to time it in llama.cpp.

    Raises `UserError` for a family llama.cpp cannot run.
    """
    config, architecture = _config(child)
    writer = import_gguf().GGUFWriter(path, architecture.name)
    writer.add_type("model")
    _write_shape(writer, child, config)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"word{i}" for i in range(child.shape.vocab_size)])
    writer.add_token_types([int(PieceType.NORMAL)] * child.shape.vocab_size)
    writer.add_token_scores([0.0] * child.shape.vocab_size)
    _write_tensors(writer, stored_tensors(child, weights))


def stored_tensors(
    child: "Child", weights: Weights, choice: Choice = PLAIN
) -> Iterator[StoredTensor]:
    """Every tensor of the file: matrices as `weights` and `choice` say, vectors float32.

    A matrix whose rows a Q format cannot cut into blocks of 32 is kept as F16. Raises `StageError`
    where a weight is beyond float16's range and the file would keep it, or its scale, so.
    """
    gguf, shape = import_gguf(), child.shape
    config, architecture = _config(child)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], shape.layers)
    parts = {placed.name: placed.row.part for placed in tensors_of(shape)}
    num_heads = turned_heads(child)
    for source, tensor in child.tensors.items():
        values = tensor.numpy()
        part = source.split(".")[-2]
        if part in num_heads:
            values = interleave(values, num_heads[part])
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"{source} has no place in a {architecture.name} file"
        kind = kind_of(values, choice.of(parts[source], weights))
        narrow = kind not in ("F32", "BF16")
        if narrow and not np.abs(values).max() <= np.finfo(np.float16).max:
            raise StageError(f"export: {source} holds numbers that a float16 file cannot keep")
        yield StoredTensor(name=name, source=source, values=values, weights=kind)
    factors = rope_factors(config, shape)
    if factors is not None:
        yield StoredTensor(name="rope_freqs.weight", source="", values=factors, weights="F32")


def turned_heads(child: "Child") -> dict[str, int]:
    """Matrices whose rows llama.cpp wants pair by pair, and how many heads each has."""
    _, architecture = _config(child)
    heads = {"q_proj": child.shape.heads, "k_proj": child.shape.kv_heads}
    return heads if architecture.pairs else {}


def interleave(values: FloatArray, num_heads: int) -> FloatArray:
    """Rows of each head from (first half, second half) to (pair, pair, ...)."""
    halves = values.reshape(num_heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def deinterleave(values: FloatArray, num_heads: int) -> FloatArray:
    """The inverse of `interleave`."""
    pairs = values.reshape(num_heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def import_gguf() -> Any:
    """The `gguf` package, with llama.cpp there to run its files; else `UserError`."""
    try:
        import gguf

        if find_spec("xllamacpp") is None:
            raise ModuleNotFoundError("xllamacpp")
    except ModuleNotFoundError:
        raise UserError(
            "[export] formats: gguf files need gguf and xllamacpp: pip install 'pocketlm[gguf]'"
        ) from None
    return gguf


def _config(child: "Child") -> tuple[Any, Architecture]:
    """The transformers config, all defaults filled in; refuses what llama.cpp cannot run."""
    check_gguf_config(child.config)
    config = model_config(child.config)
    return config, architecture_of(config, child.shape)


def _write_lineage(writer: "GGUFWriter", weights: Weights, lineage: Mapping[str, str]) -> None:
    gguf = import_gguf()
    writer.add_type("model")
    writer.add_name(lineage.get("recipe", "child"))
    most = "ALL" if weights == "F32" else "MOSTLY"
    writer.add_file_type(gguf.LlamaFileType[f"{most}_{weights}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in lineage.items():
        writer.add_string(f"pocketlm.{key.replace(' ', '_')}", value)


def _write_shape(writer: "GGUFWriter", child: "Child", config: Any) -> None:
    shape = child.shape
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    write_rope(writer, config, shape)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tensors(writer: "GGUFWriter", tensors: Iterator[StoredTensor]) -> None:
    gguf = import_gguf()
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.weights]
        writer.add_tensor(tensor.name, quantised(tensor.values, tensor.weights), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_vocabulary(writer: "GGUFWriter", tokenizer: "Tokenizer", vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.pieces))
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    if vocabulary.model == "gpt2":
        writer.add_token_merges(list(vocabulary.merges))
    else:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
    # Without a key llama.cpp assumes ids of its own, so a missing bos is what opens documents here.
    bos_id = tokenizer.prefix_id if tokenizer.bos_id is None else tokenizer.bos_id
    special: Sequence[tuple[Any, int | None]] = (
        (writer.add_bos_token_id, bos_id),
        (writer.add_eos_token_id, tokenizer.eos_id),
        (writer.add_unk_token_id, tokenizer.unk_id),
        (writer.add_pad_token_id, tokenizer.pad_id),
    )
    for add, token_id in special:
        if token_id is not None:
            add(token_id)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
