"""A checkpoint with fewer tokens: vocabulary rows cut, every other byte as it was.

Works on files, not on models: a tensor is never held, so memory does not grow with the model, and
any dtype stays what it is. Shapes: V child ids.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketlm.errors import ParentError
from pocketlm.model.token_ids import new_ids_of, remap_token_ids
from pocketlm.model.vocab_axes import (
    VocabularyAxes,
    build_empty,
    dims_of,
    find_vocabulary,
    num_parameters,
)
from pocketlm.model.weight_files import (
    CHUNK_BYTES,
    INDEX,
    SINGLE,
    StoredTensor,
    WeightFile,
    read_chunks,
    read_json,
    read_weight_file,
    write_weight_file,
)
from pocketlm.progress import SILENT, Progress

KeptIds = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class VocabularyCut:
    """What a cut removed."""

    num_params_before: int
    num_params_after: int
    num_bytes_before: int
    """Weight files, headers included."""
    num_bytes_after: int
    cut_tensors: tuple[str, ...]
    """Names of the tensors that were cut."""


def cut_vocabulary(
    parent: Path, kept_V: KeptIds | Sequence[int], out: Path, *, progress: Progress = SILENT
) -> VocabularyCut:
    """Write into the folder `out` the checkpoint `parent` with the tokens `kept_V` alone.

    Child token i is the parent's `kept_V[i]`; the child has exactly V rows, so padding of the
    parent's table is gone. config.json, generation_config.json and the weights are written, shards
    under their old names. Raises `ParentError` as `find_vocabulary` does.
    """
    kept_V = np.asarray(kept_V, dtype=np.int64)
    vocabulary = find_vocabulary(parent, int(kept_V.max()) + 1)
    new_ids = new_ids_of(kept_V.tolist())
    # Files with code stay behind, so the child must not ask for them.
    config = {key: value for key, value in vocabulary.config.items() if key != "auto_map"}
    config = remap_token_ids(config, new_ids)
    num_params = _check_child(vocabulary, config, kept_V.size)
    _write_json(out / "config.json", config)
    if (parent / "generation_config.json").is_file():
        generation = read_json(parent / "generation_config.json")
        _write_json(out / "generation_config.json", remap_token_ids(generation, new_ids))
    with progress.task("weights", vocabulary.num_bytes, "B") as advance:
        for file in vocabulary.files:
            cut = [_cut_tensor(vocabulary, tensor, kept_V.size) for tensor in file.tensors]
            write_weight_file(
                out / file.path.name, file.metadata, cut, _source(vocabulary, file, kept_V)
            )
            advance(file.path.stat().st_size)
    _write_index(vocabulary, num_params, out)
    return VocabularyCut(
        num_params_before=vocabulary.num_params,
        num_params_after=num_params,
        num_bytes_before=vocabulary.num_bytes,
        num_bytes_after=sum((out / file.path.name).stat().st_size for file in vocabulary.files),
        cut_tensors=tuple(vocabulary.axes),
    )


def first_difference(parent: Path, kept_V: KeptIds, out: Path) -> str | None:
    """Read a cut checkpoint back, byte for byte: the first tensor that is not what the parent's
    rows make, None if there is none."""
    vocabulary = find_vocabulary(parent, int(kept_V.max()) + 1)
    for file in vocabulary.files:
        cut = [_cut_tensor(vocabulary, tensor, kept_V.size) for tensor in file.tensors]
        written = {tensor.name: tensor for tensor in read_weight_file(out / file.path.name).tensors}
        expected = _source(vocabulary, file, kept_V)
        for tensor in cut:
            found = written.pop(tensor.name, None)
            if found is None or not _holds(out / file.path.name, found, tensor, expected(tensor)):
                return tensor.name
        if written:
            return next(iter(written))
    return None


def _check_child(vocabulary: VocabularyAxes, config: Mapping[str, Any], num_kept: int) -> int:
    """Parameters of the child; the architecture must take the new config and have V rows by it."""
    try:
        child = build_empty(vocabulary.folder, vocabulary.architecture, config)
    except ParentError as error:
        raise ParentError(f"{error}, once ids of dropped tokens are None; keep them") from None
    dims = dims_of(child)
    for name, target in vocabulary.targets.items():
        rows = dims[target][vocabulary.axes[name]]
        if rows != num_kept:
            raise ParentError(
                f"{vocabulary.folder}: {vocabulary.architecture} gives {name} {rows} rows for a "
                f"vocabulary of {num_kept}; it cannot be cut to that size"
            )
    return num_parameters(child)


def _cut_tensor(vocabulary: VocabularyAxes, tensor: StoredTensor, num_kept: int) -> StoredTensor:
    """What is left of `tensor`; its offset stays the parent's."""
    axis = vocabulary.axes.get(tensor.name)
    if axis is None:
        return tensor
    dims = (*tensor.dims[:axis], num_kept, *tensor.dims[axis + 1 :])
    return replace(tensor, dims=dims, num_bytes=tensor.num_bytes // tensor.dims[axis] * num_kept)


def _source(
    vocabulary: VocabularyAxes, file: WeightFile, kept_V: KeptIds
) -> Callable[[StoredTensor], Iterator[bytes]]:
    """The bytes of each cut tensor, out of the parent's file."""
    parents = {tensor.name: tensor for tensor in file.tensors}

    def chunks_of(cut: StoredTensor) -> Iterator[bytes]:
        axis = vocabulary.axes.get(cut.name)
        if axis is None:
            return read_chunks(file.path, cut.offset, cut.num_bytes)
        return _rows(file.path, parents[cut.name], axis, kept_V)

    return chunks_of


def _rows(path: Path, tensor: StoredTensor, axis: int, kept_V: KeptIds) -> Iterator[bytes]:
    """The entries `kept_V` of one axis, in windows of the file that are mapped one at a time."""
    num_rows = tensor.dims[axis]
    num_tables = math.prod(tensor.dims[:axis])
    row_bytes = tensor.num_bytes // (num_tables * num_rows)
    window_rows = max(1, CHUNK_BYTES // row_bytes)
    cuts = np.flatnonzero(np.diff(kept_V // window_rows)) + 1
    for table in range(num_tables):
        for kept_W in np.split(kept_V, cuts):
            first, last = int(kept_W.min()), int(kept_W.max())
            start = tensor.offset + (table * num_rows + first) * row_bytes
            window = np.memmap(path, np.uint8, "r", start, (last - first + 1, row_bytes))
            yield window[kept_W - first].tobytes()


def _holds(path: Path, found: StoredTensor, cut: StoredTensor, chunks: Iterator[bytes]) -> bool:
    """Whether the tensor `found` in `path` is `cut` and has the bytes of `chunks`."""
    if (found.dtype, found.dims, found.num_bytes) != (cut.dtype, cut.dims, cut.num_bytes):
        return False
    with path.open("rb") as file:
        file.seek(found.offset)
        return all(file.read(len(chunk)) == chunk for chunk in chunks)


def _write_index(vocabulary: VocabularyAxes, num_params: int, out: Path) -> None:
    """The parent's index with new totals, where the parent has shards."""
    if vocabulary.files[0].path.name == SINGLE:
        return
    index = read_json(vocabulary.folder / INDEX)
    written = [read_weight_file(out / file.path.name) for file in vocabulary.files]
    totals = {"total_size": sum(t.num_bytes for file in written for t in file.tensors)}
    if "total_parameters" in index.get("metadata", {}):
        totals["total_parameters"] = num_params
    _write_json(out / INDEX, {**index, "metadata": {**index.get("metadata", {}), **totals}})


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    text = json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
