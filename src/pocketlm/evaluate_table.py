"""The table of stage 5 in a recipe: what the child is measured by."""

from typing import Literal

from pydantic import Field, model_validator

from pocketlm.tables import Table


class EvaluateTable(Table):
    """Stage 5: parent against child on held-out text, benchmarks and this machine."""

    max_bytes: int = Field(default=1_000_000, ge=1)
    """Held-out text scored at most, UTF-8 bytes; documents are taken in the order of their hash."""
    speed_tokens: int = Field(default=64, ge=0)
    """Prompt length and new tokens of the speed test; 0 leaves it out."""
    prompt: str = ""
    """Beginning of the printed samples. Default: the first words of a held-out document."""
    sample_tokens: int = Field(default=80, ge=0)
    """Tokens of the printed samples, greedy."""
    data: str | None = None
    """Folder with files of benchmarks, relative to the recipe (`pocketlm doctor --eval DIR` says
    what is in it). Default: none are asked."""
    tasks: tuple[str, ...] = ()
    """Names of TASKS. Default: all whose files are in the folder."""
    items: int | None = Field(default=None, ge=1)
    """Questions of a task at most, the same ones for every model. Default: all."""
    shots: int | None = Field(default=None, ge=0)
    """Examples before each question, where a task has some. Default: none, as in lm-eval."""
    form: Literal["auto", "cloze", "letters"] = "auto"
    """How options are asked: the text of each answer is scored, or its letter. `auto`: cloze below
    a billion parameters of the larger model, where letters stay at chance; letters from there."""
    normaliser: str = "bytes"
    """What an answer's nats are divided by before answers are compared: a name of NORMALISERS."""
    seam: str = "heal"
    """How tokens are handled where prompt and answer meet: a name of SEAMS."""
    context: int | None = Field(default=None, ge=32)
    """Tokens of a benchmark's prompt and answer that are read. Default: [train] seq_len."""

    @model_validator(mode="after")
    def _asks_if_it_says_how(self) -> "EvaluateTable":
        said = [key for key in ("tasks", "items", "shots", "context") if getattr(self, key)]
        if self.data is None and said:
            raise ValueError(f"{', '.join(said)}: no benchmark is asked without data = FOLDER")
        return self
