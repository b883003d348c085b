"""Records on disk: one parquet a model, complete enough to score again without the model.

Fields of `Record` as columns (those with one entry a choice as lists) and ROUGE of written answers
as three more; the provenance and a sha256 of the columns stand in the schema's metadata.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pocketlm.errors import DamagedArtifact, StageError
from pocketlm.stages.evaluate.averages import Benchmarks, score_all
from pocketlm.stages.evaluate.columns import NUMBERS, PER_CHOICE, WORDS, Columns, Words
from pocketlm.stages.evaluate.provenance import Provenance, as_json, from_json
from pocketlm.stages.evaluate.rouge import KINDS

CHILD_ITEMS, PARENT_ITEMS = "items.parquet", "parent-items.parquet"
"""Names in an evaluate artifact."""
_PROVENANCE, _SHA256 = b"pocketlm.provenance", b"pocketlm.sha256"


def write_records(columns: Columns, provenance: Provenance, path: Path) -> None:
    """Write one parquet. Raises `StageError` for a task the provenance does not know."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unknown = set(columns.task_N) - set(provenance.tasks)
    if unknown:
        raise StageError(f"{', '.join(sorted(unknown))}: records without provenance")
    table: dict[str, Any] = {name: _text(getattr(columns, f"{name}_N")) for name in WORDS}
    table |= {name: pa.array(getattr(columns, f"{name}_N"), pa.int32()) for name in NUMBERS}
    offsets = pa.array(np.append(columns.starts_N, columns.counts_N.sum()), pa.int32())
    for name in PER_CHOICE:
        kind = pa.float64() if name == "nats_F" else pa.int32()
        flat = pa.array(getattr(columns, name), kind)
        table[name.removesuffix("_F")] = pa.ListArray.from_arrays(offsets, flat)
    for k, name in enumerate(KINDS):
        table[name] = pa.array(columns.rouge_N3[:, k], from_pandas=True)  # NaN becomes null
    metadata = {_PROVENANCE: as_json(provenance).encode(), _SHA256: _digest(columns).encode()}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path, compression="zstd")


def read_records(path: Path) -> tuple[Columns, Provenance]:
    """The records and their provenance; raises `DamagedArtifact` where they do not belong
    together: no metadata, a changed column, a task or form the provenance does not know."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DamagedArtifact(f"{path}: cannot be read ({error})") from None
    metadata = table.schema.metadata or {}
    provenance = from_json(metadata.get(_PROVENANCE, b"").decode(), str(path))
    try:
        columns = _columns(table)
    except (KeyError, StageError) as error:
        raise DamagedArtifact(f"{path}: {error}") from None
    if _digest(columns) != metadata.get(_SHA256, b"").decode():
        raise DamagedArtifact(f"{path}: its records are not those that were written")
    forms = set(zip(columns.task_N, columns.form_N, strict=True))
    unknown = forms - {(name, origin.form) for name, origin in provenance.tasks.items()}
    if unknown:
        raise DamagedArtifact(f"{path}: records of {sorted(unknown)} without provenance")
    return columns, provenance


def rescore(path: Path, *, normaliser: str | None = None) -> Benchmarks:
    """Score stored records again, under another normaliser if one is named; needs no model."""
    columns, provenance = read_records(path)
    return score_all(columns, provenance, normaliser=normaliser)


def _text(words_N: Words) -> Any:
    import pyarrow as pa

    return pa.array(words_N, pa.string())


def _columns(table: Any) -> Columns:
    """The arrays behind a parquet table."""
    found: dict[str, Any] = {f"{name}_N": table[name].to_numpy() for name in WORDS}
    found |= {f"{name}_N": table[name].to_numpy().astype(np.int64) for name in NUMBERS}
    for name in PER_CHOICE:
        lists = table[name.removesuffix("_F")].combine_chunks()
        flat = lists.flatten().to_numpy()
        found[name] = flat.astype(np.float64 if name == "nats_F" else np.int64)
        found["counts_N"] = lists.value_lengths().to_numpy().astype(np.int64)
    rouge = [table[name].to_numpy().astype(np.float64) for name in KINDS]
    return Columns(**found, rouge_N3=np.stack(rouge, axis=1))


def _digest(columns: Columns) -> str:
    """sha256 of what scores depend on."""
    digest = hashlib.sha256()
    for name in (*PER_CHOICE, "counts_N", "gold_N", "rouge_N3"):
        digest.update(np.ascontiguousarray(getattr(columns, name)).tobytes())
    for name in ("task_N", "form_N", "item_N", "part_N", "cluster_N", "prompt_sha256_N"):
        digest.update("\0".join(getattr(columns, name)).encode())
    return digest.hexdigest()
