"""The model card: where the child comes from, what there is, how to run it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pocketlm.model.family import load_family
from pocketlm.units import show_bytes, show_count

if TYPE_CHECKING:
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

## Running it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained("."{trust})
ids = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40)[0]))
```
"""

_LLAMA_CPP = """
```
llama-cli -m {file} -p "Once upon a time" -n 40
```
"""


def model_card(
    name: str,
    shape: "Shape",
    num_params: int,
    lineage: Mapping[str, str],
    files: Sequence["Delivered"],
) -> str:
    """Markdown."""
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
        # The architecture's code is in the folder; transformers runs it only when told to.
        trust=", trust_remote_code=True" if load_family(shape.family).auto_map else "",
    )
    runnable = [file.path for file in files if file.path.endswith(".gguf")]
    return card + (_LLAMA_CPP.format(file=f"../{runnable[0]}") if runnable else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
