"""The steps that make weights: calibration, inherit and train."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketlm.artifact import Score
from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.mixture import mix
from pocketlm.corpus.shards import check_tokens, open_tokens
from pocketlm.errors import DamagedArtifact
from pocketlm.inputs import max_positions
from pocketlm.method import pick
from pocketlm.model.checkpoint import load_child, open_checkpoint, save_child
from pocketlm.model.child import Child
from pocketlm.model.cost import count_params, flops_per_token
from pocketlm.stages.train.rounds import round_sizes, units_drawn
from pocketlm.stages.train.rows import LOG, as_lines
from pocketlm.stages.train.schedule import peak_rate
from pocketlm.stages.train.sinks import TENSORBOARD
from pocketlm.steps.choosing import choosing_bits
from pocketlm.steps.materials import Materials, Scores, write_json
from pocketlm.steps.references import references_for, write_predictions
from pocketlm.steps.terms import check_export

if TYPE_CHECKING:
    from pocketlm.stages.inherit import Calibration
    from pocketlm.stages.train import Trained

BEST = "best"
"""The folder in a train artifact of the child that was better than the last one."""
_TRAINED = "trained"  # the parent as it was trained under masks, a checkpoint


def calibration_step(run: Materials, files: Path, resume: Path) -> Scores:
    """What the parent does on blocks of the text; empty where no method looks at text.

    Masks too, where they are asked for, learned for the child's shape.
    """
    from pocketlm.stages.inherit import Evidence, learn_masks, learns_masks, measure, needs_blocks

    table = run.recipe.inherit
    if run.recipe.start != "parent" or not needs_blocks(table):
        return {}
    assert run.inputs.parent is not None  # the recipe's own check
    parent = open_checkpoint(run.inputs.parent)
    kept_V = np.load(run.made["compact"].path("kept_V.npy"))
    calibration = measure(parent, kept_V, _train_blocks(run), table, progress=run.progress)
    if learns_masks(table):
        evidence = Evidence(
            parent=parent,
            kept_V=kept_V,
            rng=run.rng("masks"),
            calibration=calibration,
            progress=run.progress,
        )
        calibration = learn_masks(evidence, run.shape(), table)
    if calibration.trained is not None:
        save_child(calibration.trained, files / _TRAINED)
    np.save(files / "ids_NT1.npy", calibration.ids_NT1)
    for name, values in calibration.statistics.items():
        np.save(files / f"{name}.npy", values)
    return {"tokens": Score(calibration.ids_NT1[:, 1:].size, "tokens")}


def _load_calibration(folder: Path) -> "Calibration | None":
    from pocketlm.stages.inherit import Calibration

    if not (folder / "ids_NT1.npy").is_file():
        return None
    arrays = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
    trained = load_child(folder / _TRAINED) if (folder / _TRAINED).is_dir() else None
    return Calibration(ids_NT1=arrays.pop("ids_NT1"), statistics=arrays, trained=trained)


def _train_blocks(run: Materials) -> Blocks:
    tokens, seq_len = run.made["tokens"].folder, run.recipe.train.seq_len
    row, weights = open_tokens(tokens, "train"), run.recipe.corpus.weights
    if not weights:
        return Blocks(row, seq_len)
    if not all(span.source for span in row.spans):
        raise DamagedArtifact(
            f"{tokens}: made before sources were kept; weights need --redo tokens"
        )
    return Blocks(row, seq_len, mixture=mix(row.spans, weights, seq_len))


def inherit_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Cut the child out of the parent, or draw it at random where the recipe says so."""
    from pocketlm.model.start import STARTS, base_config
    from pocketlm.stages.inherit import inherit_unread

    recipe, shape, tokenizer = run.recipe, run.shape(), run.tokenizer()
    check_export(recipe, shape)  # a budget that no file can keep to is said before the training
    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent)
    if recipe.start == "parent":
        assert parent is not None  # the recipe's own check
        child = inherit_unread(
            parent,
            shape,
            np.load(run.made["compact"].path("kept_V.npy")),
            rng=run.rng("inherit"),
            calibration=_load_calibration(run.made["calibration"].folder),
            progress=run.progress,
            **recipe.inherit.model_dump(),
        )
    else:
        import torch

        config = (
            base_config(shape, max_positions=max_positions(recipe), bos_id=None, eos_id=None)
            if parent is None
            else parent.config
        )
        seed = int(run.rng("start").integers(2**63))
        generator = torch.Generator().manual_seed(seed)
        child = pick(STARTS, recipe.start, "[inherit] start")(config, shape, generator)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_child(replace(child, config={**child.config, **ids}), files)
    return {"params": Score(count_params(shape), "parameters")}


def teacher_step(run: Materials, files: Path, resume: Path) -> Scores:
    """What the parent predicts of every training block, its likeliest tokens."""
    blocks = _train_blocks(run)
    num_tokens = write_predictions(run, blocks, files, resume)
    return {
        "tokens": Score(len(blocks) * blocks.seq_len, "tokens"),
        "kept": Score(num_tokens, "tokens a place"),
    }


def train_step(run: Materials, files: Path, resume: Path) -> Scores:
    """All rounds, from the newest checkpoint in `resume` on; in a team, by all its processes."""
    from pocketlm.stages.train.distributed import Team

    Team.current().of_first(True)  # the others wait to hear whether there is anything to train
    blocks = _train_blocks(run)
    trained = _trained(run, blocks, resume)
    save_child(trained.child, files)
    np.save(files / "ledger_N.npy", trained.ledger_N)
    (files / LOG).write_text(as_lines(trained.log), encoding="utf-8")
    if trained.best is not None:
        save_child(trained.best, files / BEST)
    if (resume / TENSORBOARD).is_dir():
        shutil.copytree(resume / TENSORBOARD, files / TENSORBOARD)
    write_json(files / "checks.json", list(trained.checks))
    write_json(files / "choices.json", dict(trained.choices))
    if trained.skipped:
        write_json(files / "skipped.json", list(trained.skipped))
    if trained.probes:
        probes = {"part_steps": trained.part_steps, "rows": list(trained.probes)}
        write_json(files / "probes.json", probes)
    return _train_scores(run, trained, blocks)


def help_train(run: Materials, resume: Path) -> None:
    """The part of `train_step` of a process that is not the team's first: computing."""
    _trained(run, _train_blocks(run), resume)


def _trained(run: Materials, blocks: Blocks, resume: Path) -> "Trained":
    from pocketlm.stages.train import train
    from pocketlm.stages.train.distributed import Team

    table, team = run.recipe.train, Team.current()
    # Hours of training are worth a look at every byte, whatever the store remembers of the files.
    tokens = run.made["tokens"].folder
    check_tokens(tokens, share=(team.rank, team.size), progress=run.progress)
    child = load_child(run.made["inherit"].folder)
    return train(
        child,
        blocks,
        rng=run.rng("train"),
        checkpoints=resume,
        bits_per_byte=choosing_bits(run) if table.check_at else None,
        references=references_for(run, blocks),
        progress=run.progress,
        **table.model_dump() | _rate(run, child, blocks),
    )


def _rate(run: Materials, child: Child, blocks: Blocks) -> dict[str, float | None]:
    """The peak rate, which depends on where the child's weights come from."""
    table = run.recipe.train
    num_tokens = sum(round_sizes(table, len(blocks))) * blocks.seq_len
    inherited = run.recipe.start == "parent"
    peak = peak_rate(table, count_params(child.shape), num_tokens, inherited=inherited)
    return {"learning_rate": peak, "reference_rate": None, "reference_batch_tokens": None}


def _train_flops(run: Materials, trained: "Trained", seq_len: int) -> float:
    """Training is three passes forward, scoring one; the parent's with the child's vocabulary."""
    own = flops_per_token(trained.child.shape, seq_len)
    trained_tokens = trained.log[-1]["tokens"] if trained.log else 0
    flops = own * (3 * trained_tokens + trained.num_scored * seq_len)
    parent_tokens: float = trained.num_parent_scored * seq_len
    if run.recipe.train.distils:
        stored = run.recipe.train.distil_from == "stored"
        parent_tokens += len(trained.ledger_N) * seq_len if stored else trained_tokens
    if parent_tokens:
        assert run.inputs.parent is not None  # checked before anything ran
        parent = open_checkpoint(run.inputs.parent).shape
        parent = replace(parent, vocab_size=trained.child.shape.vocab_size)
        flops += flops_per_token(parent, seq_len) * parent_tokens
    return float(flops)


def _num_left_out(trained: "Trained") -> int:
    """Steps that are not in the weights."""
    steps = (range(row["step"], row.get("until", row["step"] + 1)) for row in trained.skipped)
    return len({step for some in steps for step in some})


def _train_scores(run: Materials, trained: "Trained", blocks: Blocks) -> Scores:
    last = trained.log[-1] if trained.log else {"tokens": 0, "seconds": 0.0}
    flops = _train_flops(run, trained, blocks.seq_len)
    scores = {
        "tokens": Score(last["tokens"], "tokens"),
        "bytes": Score(trained.num_bytes, "bytes"),
        "flops": Score(flops, "FLOP, scoring included"),
        "loop_seconds": Score(last["seconds"], "s, scoring included"),
        "skipped_steps": Score(_num_left_out(trained), "steps"),
        "damaged_checkpoints": Score(len(trained.passed_over), "passed over"),
    }
    if "loss" in last:
        scores["loss"] = Score(last["loss"], "nats/token, mean of the last steps")
    for check in trained.checks:
        name = f"bits_per_byte_at_{check['share']:g}"
        scores[name] = Score(check["bits_per_byte"], "bits/byte, choosing text")
    _, units = units_drawn(run.recipe.train, len(blocks))
    name = {"block": "blocks", "batch": "batches"}[run.recipe.train.unit]
    for number, size in enumerate(trained.effective_sizes, start=2):
        scores[f"effective_{name}_round_{number}"] = Score(size, f"of {units} {name}")
    return scores
