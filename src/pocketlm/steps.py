"""How each stage reads what it needs and fills its artifact folder. Arithmetic is in `stages/`."""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.artifact import Artifact, Score
from pocketlm.corpus.blocks import Blocks
from pocketlm.corpus.shards import open_shard, write_shards
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.inputs import Inputs, max_positions
from pocketlm.method import pick
from pocketlm.model.checkpoint import load_child, open_checkpoint, save_child
from pocketlm.model.cost import count_params, flops_per_token, kv_bytes_per_token, params_by_part
from pocketlm.model.shape import Shape
from pocketlm.progress import Progress
from pocketlm.recipe import Recipe, TrainTokenizer

if TYPE_CHECKING:
    from pocketlm.stages.evaluate import Model
    from pocketlm.stages.train import Trained

_CHECK_TEXTS = 64


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a step may read: the recipe, the outside, the artifacts made before it."""

    recipe: Recipe
    inputs: Inputs
    made: Mapping[str, Artifact]
    progress: Progress

    def rng(self, *branch: str) -> np.random.Generator:
        """The generator of one named branch of the recipe's seed."""
        return np.random.default_rng([self.recipe.seed, *(zlib.crc32(b.encode()) for b in branch)])

    def tokenizer(self) -> Tokenizer:
        """The child's tokenizer."""
        return load_tokenizer(self.made["compact"].path("tokenizer"))

    def shape(self) -> Shape:
        """The child's shape."""
        return Shape(**_read_json(self.made["design"].path("shape.json")))


Scores = dict[str, Score]


def compact_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Count, select, rebuild, verify; or train a tokenizer where the recipe says so."""
    from pocketlm.stages.compact import compact

    corpus, wanted, table = run.inputs.corpus, run.inputs.tokenizer, run.recipe.compact
    if isinstance(wanted, TrainTokenizer):
        tokenizer = train_tokenizer(corpus.texts("train"), vocab_size=wanted.train)
    else:
        tokenizer = load_tokenizer(wanted)
    compacted = compact(
        tokenizer, corpus, vocab_size=table.vocab_size, select=table.select, keep=table.keep
    )
    compacted.tokenizer.save(files / "tokenizer")
    np.save(files / "kept_V.npy", compacted.kept_V)
    np.save(files / "counts_P.npy", compacted.counts_P)
    _write_json(files / "provenance.json", list(compacted.provenance))
    _write_json(files / "curve.json", [asdict(point) for point in compacted.curve])
    return {
        "vocab_size": Score(compacted.tokenizer.num_tokens, "tokens"),
        "parent_vocab_size": Score(tokenizer.num_tokens, "tokens"),
        "coverage": Score(compacted.coverage, "share of tokens"),
        "tokens_per_byte": Score(compacted.tokens_per_byte, "tokens/byte"),
        "parent_tokens_per_byte": Score(compacted.parent_tokens_per_byte, "tokens/byte"),
        "bad_lines": Score(corpus.survey.num_bad_lines, "lines"),
    }


def design_step(run: Materials, files: Path, resume: Path) -> Scores:
    """The explicit shape, or the best one in the budget; by default the parent's own."""

    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent).shape
    vocab_size = int(run.made["compact"].scores["vocab_size"].value)
    shape = decide_shape(run.recipe, vocab_size, parent)
    _write_json(files / "shape.json", asdict(shape))
    _write_json(files / "parent_shape.json", asdict(parent) if parent else None)
    return {
        "params": Score(count_params(shape), "parameters"),
        "flops_per_token": Score(flops_per_token(shape, 256), "FLOP at context 256"),
        "kv_bytes_per_token": Score(kv_bytes_per_token(shape), "bytes at 16 bit"),
        **{f"{p}.params": Score(n, "parameters") for p, n in params_by_part(shape).items()},
    }


def tokens_step(run: Materials, files: Path, resume: Path) -> Scores:
    """The training and choosing text as token ids, in datatrove's layout."""
    tokenizer = run.tokenizer()
    write_shards(run.inputs.corpus, tokenizer, files, progress=run.progress)
    shard = open_shard(files, "train", num_tokens=tokenizer.num_tokens)
    return {
        "train_tokens": Score(len(shard.tokens), "tokens"),
        "train_bytes": Score(shard.num_bytes, "bytes"),
    }


def inherit_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Cut the child out of the parent, or draw it at random where the recipe says so."""
    from pocketlm.model.start import STARTS, base_config
    from pocketlm.stages.inherit import inherit

    recipe, shape, tokenizer = run.recipe, run.shape(), run.tokenizer()
    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent)
    if recipe.start == "parent":
        assert parent is not None  # the recipe's own check
        child = inherit(
            parent,
            shape,
            np.load(run.made["compact"].path("kept_V.npy")),
            layers=recipe.inherit.layers,
            neurons=recipe.inherit.neurons,
            rng=run.rng("inherit"),
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


def train_step(run: Materials, files: Path, resume: Path) -> Scores:
    """All rounds, from the newest checkpoint in `resume` on."""
    from pocketlm.stages.train import train

    table = run.recipe.train
    tokens = run.made["tokens"]
    num_tokens = int(run.made["compact"].scores["vocab_size"].value)
    shard = open_shard(tokens.folder, "train", num_tokens=num_tokens)
    blocks = Blocks(shard.tokens, table.seq_len, shard.num_bytes / len(shard.tokens))
    trained = train(
        load_child(run.made["inherit"].folder),
        blocks,
        rng=run.rng("train"),
        checkpoints=resume,
        progress=run.progress,
        **table.model_dump(),
    )
    save_child(trained.child, files)
    np.save(files / "ledger_N.npy", trained.ledger_N)
    _write_json(files / "log.json", list(trained.log))
    return _train_scores(trained, blocks)


def evaluate_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Parent and child on the same held-out text, then their speed and a sample of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pocketlm.stages.evaluate import evaluate
    from pocketlm.stages.evaluate.sample import Prompt

    table, parent = run.recipe.evaluate, run.inputs.parent
    documents = run.inputs.corpus.sample("held-out", max_bytes=table.max_bytes)
    opening = " ".join(documents[0].text.split(" ")[:12])
    evaluation = evaluate(
        _model(run.made["train"].folder, run.tokenizer()),
        None if parent is None else _model(parent, load_tokenizer(parent)),
        documents,
        context=run.recipe.train.seq_len,
        speed_tokens=table.speed_tokens,
        prompt=Prompt(text=table.prompt or opening, new_tokens=table.sample_tokens),
        rng=run.rng("evaluate"),
    )
    pq.write_table(pa.table(dict(evaluation.per_document)), files / "documents.parquet")
    _write_json(files / "samples.json", dict(evaluation.samples))
    _write_json(files / "prompt.json", table.prompt or opening)
    _write_json(files / "spread.json", {k: asdict(v) for k, v in evaluation.spread.items()})
    return dict(evaluation.scores)


def export_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Every format the recipe names, each verified."""
    from pocketlm.stages.export import export

    check_texts = list(islice(run.inputs.corpus.texts("choose"), _CHECK_TEXTS))
    lineage = {
        "recipe": run.recipe.name,
        "parent": run.recipe.parent_name or "none",
        "parent key": run.inputs.parent_key or "none",
        "corpus key": run.inputs.corpus_key,
        "train key": run.made["train"].key,
    }
    exported = export(
        load_child(run.made["train"].folder),
        run.tokenizer(),
        files,
        formats=run.recipe.export.formats,
        check_texts=check_texts,
        lineage=lineage,
    )
    _write_json(files / "files.json", [asdict(file) for file in exported.files])
    return exported.scores


Step = Callable[[Materials, Path, Path], Scores]
STEPS: dict[str, Step] = {
    "compact": compact_step,
    "design": design_step,
    "tokens": tokens_step,
    "inherit": inherit_step,
    "train": train_step,
    "evaluate": evaluate_step,
    "export": export_step,
}


def _train_scores(trained: "Trained", blocks: Blocks) -> Scores:
    last = trained.log[-1] if trained.log else {"tokens": 0, "seconds": 0.0}
    forward = flops_per_token(trained.child.shape, blocks.seq_len)
    scored_tokens = len(trained.effective_sizes) * len(blocks) * blocks.seq_len
    scores = {
        "tokens": Score(last["tokens"], "tokens"),
        "bytes": Score(round(last["tokens"] * blocks.bytes_per_token), "bytes"),
        "flops": Score(forward * (3 * last["tokens"] + scored_tokens), "FLOP, scoring included"),
        "loop_seconds": Score(last["seconds"], "s, scoring included"),
        "skipped_steps": Score(trained.num_skipped, "steps"),
        "damaged_checkpoints": Score(len(trained.passed_over), "passed over"),
    }
    if "loss" in last:
        scores["loss"] = Score(last["loss"], "nats/token, mean of the last steps")
    for number, size in enumerate(trained.effective_sizes, start=2):
        scores[f"effective_blocks_round_{number}"] = Score(size, f"of {len(blocks)} blocks")
    return scores


def decide_shape(recipe: Recipe, vocab_size: int, parent: Shape | None) -> Shape:
    """The recipe's explicit shape, or the best in its budget; by default the parent's own.

    Raises `BudgetError` and `RecipeError`.
    """
    from pocketlm.model.shape import check_shape
    from pocketlm.stages.design import Budget, design

    table, family = recipe.design, parent.family if parent else recipe.family
    if table.max_params is not None:
        budget = Budget(max_params=table.max_params)
        return design(
            budget, vocab_size=vocab_size, family=family, parent_shape=parent, rank=table.rank
        )
    if table.shape is None:
        assert parent is not None  # the recipe's own check
        return parent.with_vocab(vocab_size)
    given = table.shape
    head_dim = given.head_dim or (parent.head_dim if parent else given.hidden // given.heads)
    tied = given.tied if given.tied is not None else (parent.tied if parent else True)
    numbers = given.model_dump() | {"head_dim": head_dim, "tied": tied}
    shape = Shape(family=family, vocab_size=vocab_size, **numbers)
    check_shape(shape, parent)
    return shape


def _model(folder: Path, tokenizer: Tokenizer) -> "Model":
    from pocketlm.stages.evaluate import Model

    child = load_child(folder)
    num_params = count_params(child.shape)
    # The same bytes a weight for both: a parent's file may be bfloat16, the child's is float32.
    return Model(
        network=child.network(),
        tokenizer=tokenizer,
        num_params=num_params,
        num_bytes=2 * num_params,
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
