"""What the inheritance study says beside its verdicts: curves, and tokens to the target.

The target is what the from-scratch child reaches at the end, seed by seed, on the choosing text.

pocketlm compare studies/inheritance.toml --out runs
python studies/inheritance.py runs                    # writes docs/results/inheritance/
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from pocketlm.ablation.records import Record, Records
from pocketlm.ablation.study import load_study
from pocketlm.report import COLOUR, SERIES, draw, stand_alone

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "inheritance"
SCRATCH = "from-scratch"
SHOWN = (0.0, 0.1, 0.25, 0.5, 1.0)


def main(out: Path) -> None:
    """Read the finished runs under `out`; write numbers, a table and a plot."""
    study = load_study(Path(__file__).with_name("inheritance.toml"))
    records = Records(out, study.name)
    parent = json.loads((out / "runs" / "stories-parent" / "run.json").read_text())["scores"]
    parent_tokens = int(parent["train.tokens"]["value"])
    shares = study.recipe("baseline", 0).train.check_at
    targets = [_bits(_record(records, SCRATCH, seed), 1.0) for seed in study.seeds]
    rows = [
        _row(arm, [_record(records, arm, seed) for seed in study.seeds], shares, targets)
        for arm in study.all_arms
    ]
    for row in rows:
        spent = 0 if row["arm"] == SCRATCH else parent_tokens + row["calibration_tokens"]
        row["pipeline_tokens"] = [None if t is None else spent + t for t in row["tokens_to_target"]]
    numbers = {
        "parent": {"tokens": parent_tokens, "bits": parent["child.bits_per_byte"]["value"]},
        "targets": targets,
        "arms": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "curves.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (RESULTS / "curves.md").write_text(_markdown(numbers))
    (RESULTS / "curves.svg").write_text(stand_alone(_plot(rows, targets)))
    print((RESULTS / "curves.md").read_text())


def _record(records: Records, arm: str, seed: int) -> Record:
    record = records.read(arm, seed)
    assert record is not None, f"{arm}, seed {seed}: not run yet"
    assert record.error is None, f"{arm}, seed {seed}: {record.error}"
    return record


def _row(
    arm: str, found: Sequence[Record], shares: Sequence[float], targets: Sequence[float]
) -> dict[str, Any]:
    """One arm: bits along training, and tokens until each seed's target; None where never."""
    curves = [[_bits(record, share) for share in shares] for record in found]
    tokens = found[0].scores["train.tokens"].value
    calibration = found[0].scores.get("calibration.tokens")
    reached = [
        _first_below(target, shares, curve) for target, curve in zip(targets, curves, strict=True)
    ]
    return {
        "arm": arm,
        "tokens": tokens,
        "calibration_tokens": 0 if calibration is None else int(calibration.value),
        "shares": list(shares),
        "bits": curves,
        "held_out_bits": [record.scores["child.bits_per_byte"].value for record in found],
        "share_to_target": reached,
        "tokens_to_target": [None if r is None else round(r * tokens) for r in reached],
    }


def _bits(record: Record, share: float) -> float:
    return record.scores[f"train.bits_per_byte_at_{share:g}"].value


def _first_below(target: float, shares: Sequence[float], curve: Sequence[float]) -> float | None:
    """Where the curve first meets the target, straight lines between checks."""
    if curve[0] <= target:
        return shares[0]
    for left, right in zip(range(len(curve)), range(1, len(curve)), strict=False):
        if curve[right] <= target:
            part = (curve[left] - target) / (curve[left] - curve[right])
            return shares[left] + part * (shares[right] - shares[left])
    return None


def _markdown(numbers: dict[str, Any]) -> str:
    parent = numbers["parent"]
    heads = [f"{share:.0%}" for share in SHOWN]
    lines = [
        f"Parent: {parent['tokens'] / 1e6:.2f}M tokens, {parent['bits']:.4f} bits/byte held out. "
        "Columns: bits/byte of the choosing text after that share of the child's tokens, mean over "
        "seeds; held-out bits/byte at the end; share of the tokens at which the from-scratch "
        "child's final value is reached, each seed; tokens to it, the parent's included.",
        "",
        f"| start | {' | '.join(heads)} | held out | reached at | tokens of the whole pipeline |",
        "|---|" + "---|" * (len(SHOWN) + 3),
    ]
    for row in sorted(numbers["arms"], key=lambda row: mean(row["held_out_bits"])):
        bits = [mean(curve[row["shares"].index(share)] for curve in row["bits"]) for share in SHOWN]
        reached = ", ".join("never" if r is None else f"{r:.1%}" for r in row["share_to_target"])
        whole = [t for t in row["pipeline_tokens"] if t is not None]
        lines.append(
            f"| {row['arm']} | {' | '.join(f'{b:.3f}' for b in bits)} | "
            f"{mean(row['held_out_bits']):.4f} | {reached} | "
            f"{f'{mean(whole) / 1e6:.2f}M' if whole else 'never'} |"
        )
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[dict[str, Any]], targets: Sequence[float]) -> Any:
    def paint(figure: Any) -> None:
        ax = figure.subplots()
        for number, row in enumerate(rows):
            colour, dash = SERIES[number % len(SERIES)], ("-", "--")[number // len(SERIES) % 2]
            x = [max(share * row["tokens"], 1e3) for share in row["shares"]]
            over_seeds = list(zip(*row["bits"], strict=True))
            ax.plot(x, [mean(b) for b in over_seeds], dash, color=colour, label=row["arm"])
            ax.fill_between(x, [min(b) for b in over_seeds], [max(b) for b in over_seeds],
                            color=colour, alpha=0.2, linewidth=0)  # fmt: skip
        ax.axhline(mean(targets), color=COLOUR["muted"], linewidth=0.8)
        ax.set_xscale("log")
        highest = max(math.ceil(row["bits"][0][0]) for row in rows if row["arm"] != SCRATCH)
        ax.set_ylim(top=min(highest, 4))
        ax.set_xlabel("tokens of training (leftmost: none)")
        ax.set_ylabel("bits per byte, choosing text")
        ax.legend(fontsize=8)
        ax.grid(axis="both")

    return draw(paint, size=(8.0, 4.6), description="Bits per byte along training, each start")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
