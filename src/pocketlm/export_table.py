"""The table of stage 6 in a recipe: which files, how wide, how large at most."""

from typing import Literal

from pydantic import Field

from pocketlm.tables import Table


class ExportTable(Table):
    """Stage 6: files that run on devices, each verified."""

    formats: tuple[str, ...] = ("huggingface",)
    """Names of FORMATS."""
    keep_8bit: tuple[Literal["embedding", "attention", "ffn", "head"], ...] = ()
    """Parts whose matrices a gguf file of 5 or 4 bit keeps in 8; a tied embedding is the head too.
    [design] max_bytes counts none of this beforehand: a file that then misses it is refused."""
    embedding_weights: str | None = None
    """How gguf files narrower than this keep the embedding: f16, bf16, q8_0, q5_0 or f32.
    Default: as `keep_8bit` says, else as the file's other matrices."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Bytes on disk of each format at most; a format that misses it stops the export, and nothing
    is delivered. Default: any."""
