"""Ship a run's child as a parent: `python recipes/ship.py RUN_FOLDER TARGET`.

Copies the exported huggingface folder with its weights in bfloat16 (half the bytes) and writes the
run's numbers to docs/results/NAME/scores.json.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pocketlm.runs import open_run

CARD = """# {name}

Trained by this project: recipe `recipes/{name}.toml`, made again and shipped by `make {name}`,
numbers in `docs/results/{name}/scores.json`. Weights in bfloat16, licence Apache-2.0 like the
project; the text it learnt is the Python standard library's (PSF licence).
"""


def ship(run_folder: Path, target: Path) -> None:
    """Write `target`: config, tokenizer and bfloat16 weights of the run's export."""
    run = open_run(str(run_folder))
    source = run.artifacts["export"].path("huggingface")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    (target / "README.md").write_text(CARD.format(name=run.name), encoding="utf-8")
    tensors = load_file(source / "model.safetensors")
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halved, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")
    results = Path("docs/results") / run.name
    results.mkdir(parents=True, exist_ok=True)
    scores = {name: score.value for name, score in run.scores.items()}
    text = json.dumps(scores, indent=1) + "\n"
    (results / "scores.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
