"""What the depth-width study says beside its verdicts: speed of each shape, and rank correlations.

pocketlm compare studies/depth-width.toml --out runs
python studies/depth_width.py runs                    # writes docs/results/depth-width/
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from pocketlm.ablation.records import Records
from pocketlm.ablation.study import load_study
from pocketlm.model.cost import count_params
from pocketlm.model.shape import Shape
from pocketlm.report import COLOUR, SERIES, draw, stand_alone
from pocketlm.stages.design import TRANSFORMERS
from pocketlm.stages.design.timed import time_shapes

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "depth-width"
VOCAB_SIZE = 2048


def main(out: Path) -> None:
    """Read the finished runs under `out`, time the shapes, write numbers, a table and a plot."""
    rows = _rows(out)
    shapes = [row.pop("shape_") for row in rows]
    timings = time_shapes(shapes, TRANSFORMERS, rng=np.random.default_rng(0))
    for row, timing in zip(rows, timings, strict=True):
        row |= timing.as_dict()
        row["prompt_tokens_per_s"] = 1000 * timing.prompt_tokens / row["first_token_ms"]
    depth = [row for row in rows if row["grid"] in ("depth", "both")]
    ffn = [row for row in rows if row["grid"] in ("ffn", "both")]
    numbers = {
        "runs": rows,
        "spearman": {
            "depth, bits": _spearman(depth, "layers", "bits"),
            "width, bits": _spearman(depth, "hidden", "bits"),
            "ffn ratio, bits": _spearman(ffn, "ratio", "bits"),
            "depth, tokens/s": _spearman(depth, "layers", "tokens_per_s"),
            "ffn ratio, tokens/s": _spearman(ffn, "ratio", "tokens_per_s"),
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "depth-width.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (RESULTS / "depth-width.md").write_text(_markdown(rows, numbers["spearman"]))
    (RESULTS / "depth-width.svg").write_text(stand_alone(_plot(depth, ffn)))
    print((RESULTS / "depth-width.md").read_text())


def _rows(out: Path) -> list[dict[str, Any]]:
    study = load_study(Path(__file__).with_name("depth-width.toml"))
    records = Records(out, study.name)
    rows = []
    for arm in study.all_arms:
        table = study.recipe(arm, study.seeds[0]).design.shape
        assert table is not None
        assert table.head_dim is not None
        numbers = table.model_dump() | {"head_dim": table.head_dim, "tied": True}
        shape = Shape(family="llama", vocab_size=VOCAB_SIZE, **numbers)
        found = [records.read(arm, seed) for seed in study.seeds]
        bits = [r.scores[study.score].value for r in found if r is not None]
        assert len(bits) == len(study.seeds), f"{arm}: not all seeds are there"
        grid = {"d": "depth", "f": "ffn"}.get(arm[0], "depth")
        rows.append({
            "arm": arm, "grid": "both" if arm == "d4" else grid, "layers": shape.layers,
            "hidden": shape.hidden, "ffn": shape.ffn, "ratio": shape.ffn / shape.hidden,
            "params": count_params(shape), "bits": mean(bits), "seeds": bits, "shape_": shape,
        })  # fmt: skip
    return rows


def _spearman(rows: Sequence[dict[str, Any]], x: str, y: str) -> dict[str, float]:
    found = spearmanr([row[x] for row in rows], [row[y] for row in rows])
    return {"rho": float(found.statistic), "p": float(found.pvalue), "shapes": len(rows)}


def _markdown(rows: Sequence[dict[str, Any]], spearman: dict[str, dict[str, float]]) -> str:
    lines = ["| arm | layers x hidden, ffn | ratio | parameters | bits/byte | seeds apart | "
             "tokens/s | prompt tokens/s |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: row["bits"]):
        apart = max(row["seeds"]) - min(row["seeds"])
        lines.append(
            f"| {row['arm']} | {row['layers']} x {row['hidden']}, {row['ffn']} | "
            f"{row['ratio']:.2f} | {row['params'] / 1e6:.3f}M | {row['bits']:.4f} | {apart:.4f} | "
            f"{row['tokens_per_s']:.0f} | {row['prompt_tokens_per_s']:.0f} |"
        )
    lines += ["", "| Spearman | rho | p | shapes |", "|---|---|---|---|"]
    for name, found in spearman.items():
        lines.append(f"| {name} | {found['rho']:+.2f} | {found['p']:.3f} | {found['shapes']:.0f} |")
    return "\n".join(lines) + "\n"


def _plot(depth: Sequence[dict[str, Any]], ffn: Sequence[dict[str, Any]]) -> Any:
    def paint(figure: Any) -> None:
        axes = figure.subplots(1, 3)
        panels = ((axes[0], depth, "layers", "bits"), (axes[1], ffn, "ratio", "bits"),
                  (axes[2], depth, "layers", "tokens_per_s"))  # fmt: skip
        for ax, rows, x, y in panels:
            ordered = sorted(rows, key=lambda row: row[x])
            ax.plot([r[x] for r in ordered], [r[y] for r in ordered], "o-", color=SERIES[0])
            if y == "bits":
                for r in ordered:
                    ax.plot([r[x]] * len(r["seeds"]), r["seeds"], "_", color=COLOUR["muted"])
            ax.set_xlabel({"layers": "layers", "ratio": "ffn / hidden"}[x])
            ax.set_ylabel({"bits": "bits per byte", "tokens_per_s": "tokens/s, decode"}[y])
            ax.grid(axis="both")

    return draw(paint, size=(11.0, 3.4), description="Depth, FFN ratio, bits per byte and speed")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
