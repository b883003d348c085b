"""The model card: where the child comes from, what there is, what it is worth, how to run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.model.family import load_family
from pocketlm.units import show_bytes, show_count

if TYPE_CHECKING:
    from pocketlm.model.child import Child
    from pocketlm.model.shape import Shape
    from pocketlm.stages.export import Delivered

_HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [pocketlm]
---

# {name}

{params} parameters: {shape}.

## Lineage

| | |
|---|---|
{lineage}

## Files

Each was read back and compared with the trained child before it was delivered.

| format | file | size | verified |
|---|---|---|---|
{files}
{quality}
## Intended use

Text like the corpus it was trained on, continued on small devices; experiments with tiny models. It
follows no instructions it was not trained for, and what it writes can be false or offensive: check
it before anyone relies on it. Whether and how it may be passed on is decided by the licences of its
parent and of its corpus.

## Running it
"""

_QUALITY = """
| format | {heads} |
|---{rules}|
{rows}

Bits per byte of held-out text; for formats marked * of the file's numbers put back into the
network (weights only: the runtime also rounds activations). Speeds, load time and memory on the
machine that made the files, one thread, one sequence; predicted: no runtime on {device} is faster
where weights do not fit a cache.
"""

_TRANSFORMERS = """
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}"{trust})
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0]))
```
"""

_LLAMA_CPP = """
```
llama-cli -m {file} -p "Once upon a time" -n 40
```
"""

# Name of the check -> head of its column, how it is shown.
_COLUMNS = {
    "bits_per_byte": ("bits per byte", "{:.4f}"),
    "bits_per_byte_loss_pct": ("loss, %", "{:+.2f}"),
    "load_s": ("load, s", "{:.2f}"),
    "peak_bytes": ("memory", ""),
    "prefill_tokens_per_s": ("prefill, tokens/s", "{:.0f}"),
    "decode_tokens_per_s": ("decode, tokens/s", "{:.0f}"),
    "predicted_tokens_per_s": ("predicted decode", "{:.0f}"),
}


def write_cards(
    folder: Path,
    name: str,
    child: "Child",
    lineage: Mapping[str, str],
    files: Sequence["Delivered"],
) -> None:
    """`card.md` beside the files, and the same as README.md of a transformers folder among them."""
    num_params = sum(tensor.numel() for tensor in child.tensors.values())
    about = (name, child.shape, num_params, lineage, files)
    (folder / "card.md").write_text(model_card(*about), encoding="utf-8")
    inner = folder / "huggingface"
    if inner.is_dir():
        (inner / "README.md").write_text(model_card(*about, inside=True), encoding="utf-8")


def model_card(
    name: str,
    shape: "Shape",
    num_params: int,
    lineage: Mapping[str, str],
    files: Sequence["Delivered"],
    *,
    inside: bool = False,
) -> str:
    """Markdown; `inside`: as README.md of the transformers folder, the other files one up."""
    rows = [
        f"| {file.format} | `{file.path}` | {show_bytes(file.num_bytes)} | {_cell(file.verified)} |"
        for file in files
    ]
    card = _HEAD.format(
        name=name,
        params=show_count(num_params),
        shape=shape,
        lineage="\n".join(f"| {key} | {_cell(value)} |" for key, value in lineage.items()),
        files="\n".join(rows),
        quality=_quality(files),
    )
    if any(file.format == "huggingface" for file in files):
        # The architecture's code is in the folder; transformers runs it only when told to.
        trust = ", trust_remote_code=True" if load_family(shape.family).auto_map else ""
        card += _TRANSFORMERS.format(folder="." if inside else "huggingface", trust=trust)
    runnable = [file.path for file in files if file.path.endswith(".gguf")]
    up = "../" if inside else ""
    return card + (_LLAMA_CPP.format(file=up + runnable[0]) if runnable else "")


def _quality(files: Sequence["Delivered"]) -> str:
    """The table of what was scored and timed; empty where nothing was."""
    values = {file.format: {check.name: check for check in file.checks} for file in files}
    shown = {key: column for key, column in _COLUMNS.items()
             if any(key in checks for checks in values.values())}  # fmt: skip
    if not shown:
        return ""
    rows, device = [], "the device"
    for kind, checks in values.items():
        cells = []
        for key, (_, form) in shown.items():
            check = checks.get(key)
            value = "" if check is None else form.format(check.value) if form else ""
            cells.append(show_bytes(int(check.value)) if check and not form else value)
        weights_only = "bits_per_byte" in checks and "weights only" in checks["bits_per_byte"].unit
        rows.append(f"| {kind}{' *' * weights_only} | " + " | ".join(cells) + " |")
        if "predicted_tokens_per_s" in checks:
            device = checks["predicted_tokens_per_s"].unit.rpartition(" of ")[2]
    heads = " | ".join(head for head, _ in shown.values())
    return _QUALITY.format(
        heads=heads, rules="|---" * len(shown), rows="\n".join(rows), device=device
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
