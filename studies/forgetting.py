"""The paper's forgetting figure, measured: parts of the first round, re-scored as training goes on.

Two children of one shape on the same blocks: cut out of the parent, which has read the text, and
from random weights, which has not. Training is that of recipes/stories-rounds.toml, softmax-loss.

python studies/forgetting.py runs                    # writes docs/results/forgetting/
"""

import json
import sys
from pathlib import Path
from typing import Any

from pocketlm.pipeline import make
from pocketlm.recipe import load_recipe
from pocketlm.report import Line, line_plot, stand_alone
from pocketlm.run_report.forgetting import ForgettingNotes, given_back
from pocketlm.summary import forgetting_notes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "forgetting"
CHILDREN: dict[str, dict[str, Any]] = {
    "inherited": {},
    "from-scratch": {"inherit.start": "constant", "train.learning_rate": 3e-3},
}
SHOWN = (0, 2, 4, 6)


def main(out: Path) -> None:
    """Train what is missing under `out`, then write numbers, a table and two plots."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    numbers, lines = {}, ["| child | part trained at | gap before | lowest after | at the end |"]
    lines.append("|---|---|---|---|---|")
    for name, changes in CHILDREN.items():
        notes = _notes(name, changes, out)
        parts = [(part.trained_at, given_back(notes, part)) for part in notes.parts]
        numbers[name] = {
            "tokens": list(notes.tokens),
            "held_back": list(notes.yardstick),
            "parts": [{"tokens": p.trained_at, "losses": list(p.losses)} for p in notes.parts],
            "gaps": [
                dict(zip(("before", "lowest", "end"), gaps, strict=True)) for _, gaps in parts
            ],
        }
        lines += [
            f"| {name} | {tokens:,} tokens | " + " | ".join(f"{gap:+.3f}" for gap in gaps) + " |"
            for tokens, gaps in parts
        ]
        (RESULTS / f"{name}.svg").write_text(stand_alone(_plot(notes)))
    lines += ["", "Gap: loss of the part less loss of text held back, nats per token."]
    (RESULTS / "forgetting.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (RESULTS / "forgetting.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _notes(name: str, changes: dict[str, Any], out: Path) -> ForgettingNotes:
    recipe = load_recipe(
        ROOT / "recipes" / "stories-rounds.toml",
        changes={
            "name": f"forgetting.{name}",
            "train.resample": "softmax-loss",
            "train.probe_parts": 8,
            **changes,
        },
    )
    notes = forgetting_notes(make(recipe, out=out, until="train").artifacts["train"])
    assert notes is not None, "probe_parts was asked for"
    return notes


def _plot(notes: ForgettingNotes) -> Any:
    """Gap of some parts to the text held back, over the tokens seen."""
    shown = [notes.parts[n] for n in SHOWN]
    return line_plot(
        [
            Line(
                f"part at {part.trained_at / 1e3:.0f}k",
                notes.tokens,
                [a - b for a, b in zip(part.losses, notes.yardstick, strict=True)],
            )
            for part in shown
        ],
        x_label="tokens seen",
        y_label="loss above text held back, nats per token",
        marks={},
        description="Loss of parts of the first round less loss of text held back",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
