"""GGUF, the file llama.cpp runs: F16 or Q8_0 matrices, float32 norms, the tokenizer inside.

llama.cpp turns neighbouring numbers of a head for rotary position, transformers the two halves, so
the rows of q and k are reordered (llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute).
Q8_0: blocks of 32 numbers of a row share one float16 scale, max |w| / 127.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pocketlm.errors import StageError, UserError
from pocketlm.stages.export.vocabulary import PieceType, Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from pocketlm.corpus.tokenizer import Tokenizer
    from pocketlm.model.child import Child

FloatArray = npt.NDArray[np.float32]
Weights = Literal["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0"]

ARCHITECTURES = {"llama": "llama"}
"""transformers model_type -> llama.cpp architecture, for the families whose files were proven."""

NOT_IN_LLAMA_CPP = ("pangu_pi",)

ROPE_BY_FACTORS = ("linear", "llama3")
"""Rotary scalings that only divide each frequency by a constant: written as `rope_freqs`."""


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
) -> Vocabulary:
    """Write one file; the same child gives the same bytes. Returns the vocabulary it holds.

    Raises `UserError` for a family, rotary scaling or tokenizer llama.cpp cannot run.
    """
    gguf = import_gguf()
    config = _config(child)
    vocabulary = vocabulary_of(tokenizer, child.shape.vocab_size)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[child.shape.family])
    _write_lineage(writer, weights, lineage)
    _write_shape(writer, child, config)
    _write_vocabulary(writer, tokenizer, vocabulary)
    _write_tensors(writer, child, weights)
    return vocabulary


def write_wordless_gguf(child: "Child", path: Path, *, weights: Weights) -> None:
    """A file with the weights of `child` and made-up words: enough to time it in llama.cpp.

    Raises `UserError` for a family llama.cpp cannot run.
    """
    config = _config(child)
    writer = import_gguf().GGUFWriter(path, ARCHITECTURES[child.shape.family])
    writer.add_type("model")
    _write_shape(writer, child, config)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"word{i}" for i in range(child.shape.vocab_size)])
    writer.add_token_types([int(PieceType.NORMAL)] * child.shape.vocab_size)
    writer.add_token_scores([0.0] * child.shape.vocab_size)
    _write_tensors(writer, child, weights)


def stored_tensors(child: "Child", weights: Weights) -> Iterator[StoredTensor]:
    """Every tensor of the file: matrices as `weights` says, vectors float32.

    A matrix whose rows a Q format cannot cut into blocks of 32 is kept as F16. Raises `StageError`
    where a weight is beyond float16's range.
    """
    gguf, shape = import_gguf(), child.shape
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[shape.family].upper()]
    names = gguf.get_tensor_name_map(architecture, shape.layers)
    num_heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}
    for source, tensor in child.tensors.items():
        values = tensor.numpy()
        part = source.split(".")[-2]
        if part in num_heads:
            values = interleave(values, num_heads[part])
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"{source} has no place in a {architecture.name} file"
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise StageError(f"export: {source} holds numbers that a float16 file cannot keep")
        yield StoredTensor(name=name, source=source, values=values, weights=_kind(values, weights))
    factors = _rope_factors(child)
    if factors is not None:
        yield StoredTensor(name="rope_freqs.weight", source="", values=factors, weights="F32")


def interleave(values: FloatArray, num_heads: int) -> FloatArray:
    """Rows of each head from (first half, second half) to (pair, pair, ...)."""
    halves = values.reshape(num_heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def deinterleave(values: FloatArray, num_heads: int) -> FloatArray:
    """The inverse of `interleave`."""
    pairs = values.reshape(num_heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def check_gguf_family(family: str) -> None:
    """Raise `UserError` for a family that has no gguf files."""
    if family in NOT_IN_LLAMA_CPP:
        raise UserError(
            f"[export] formats: no gguf files for family {family!r}: llama.cpp has no such "
            "architecture; choose huggingface"
        )
    if family not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"[export] formats: no gguf files for family {family!r}; it has {known}")


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


def _kind(values: FloatArray, weights: Weights) -> Weights:
    if values.ndim == 1:
        return "F32"
    return "F16" if weights.startswith("Q") and values.shape[-1] % 32 else weights


def _config(child: "Child") -> Any:
    """The transformers config, all defaults filled in; refuses what llama.cpp cannot run."""
    from transformers import AutoConfig

    family = child.shape.family
    check_gguf_family(family)
    settings = {k: v for k, v in child.config.items() if k != "model_type"}
    config = AutoConfig.for_model(family, **settings)
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ("default", *ROPE_BY_FACTORS):
        raise UserError(f"[export] formats: no gguf files for rotary scaling {rope_type!r}")
    if config.hidden_act != "silu":
        raise UserError(f"[export] formats: gguf files need silu, not {config.hidden_act!r}")
    return config


def _rope_factors(child: "Child") -> FloatArray | None:
    """How much slower than plain rotary each pair of a head turns; None where none is."""
    config = _config(child)
    rope = config.rope_parameters
    if rope["rope_type"] == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    width = child.shape.head_dim
    plain = rope["rope_theta"] ** (-np.arange(0, width, 2) / width)
    factors: FloatArray = (plain / frequencies.numpy()).astype(np.float32)
    return factors


def _write_lineage(writer: "GGUFWriter", weights: Weights, lineage: Mapping[str, str]) -> None:
    gguf = import_gguf()
    writer.add_type("model")
    writer.add_name(lineage.get("recipe", "child"))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{weights}"])
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
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tensors(writer: "GGUFWriter", child: "Child", weights: Weights) -> None:
    gguf = import_gguf()
    for tensor in stored_tensors(child, weights):
        kind = gguf.GGMLQuantizationType[tensor.weights]
        writer.add_tensor(tensor.name, gguf.quantize(tensor.values, kind), raw_dtype=kind)
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
