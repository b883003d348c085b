"""The steps about tokens: count, compact, and the corpus in the child's vocabulary."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from pocketlm.artifact import Artifact, Score
from pocketlm.corpus.shards import open_tokens, write_shards
from pocketlm.corpus.tokenizer import train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.recipe import CompactTable, TrainTokenizer
from pocketlm.stages.compact import Compacted, Counted, Keep, Size, compact, count
from pocketlm.stages.compact.count import Counts, How
from pocketlm.stages.export import check_tokenizer
from pocketlm.steps.materials import Materials, Scores, write_json
from pocketlm.steps.shape import body_of

_PARTS = ("train", "choose", "held_out")


def counts_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Count the corpus in the parent's tokens; train the tokenizer first if the recipe says so."""
    wanted, corpus = run.inputs.tokenizer, run.inputs.corpus
    if isinstance(wanted, TrainTokenizer):
        tokenizer = train_tokenizer(corpus.texts("train"), vocab_size=wanted.train)
    else:
        tokenizer = load_tokenizer(wanted)
    check_tokenizer(run.recipe.export.formats, tokenizer)
    tokenizer.save(files / "tokenizer")
    how = How(sample_bytes=run.recipe.compact.sample_bytes, resume=resume)
    counted = count(tokenizer, corpus, how=how, progress=run.progress)
    for part in _PARTS:
        getattr(counted, part).save(files / part)
    train = counted.train
    return {
        "tokens": Score(train.num_tokens, "tokens"),
        "bytes": Score(train.num_bytes, "bytes"),
        "sampled_share": Score(train.sampled_share, "share of the training text"),
        "bad_lines": Score(corpus.survey.num_bad_lines, "lines"),
    }


def compact_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Select, rebuild, verify; the counts are there."""
    tokenizer = load_tokenizer(run.made["counts"].path("tokenizer"))
    table = run.recipe.compact
    keep = Keep(texts=table.keep, patterns=table.keep_patterns, scripts=table.keep_scripts)
    compacted = compact(
        tokenizer,
        run.inputs.corpus,
        vocab_size=_size(run),
        select=table.select,
        keep=keep,
        counted=_counted(run.made["counts"], table),
    )
    compacted.tokenizer.save(files / "tokenizer")
    write_vocabulary(compacted, files)
    return _compact_scores(compacted, tokenizer.num_tokens)


def tokens_step(run: Materials, files: Path, resume: Path) -> Scores:
    """The training and choosing text as token ids, in datatrove's layout."""
    write_shards(run.inputs.corpus, run.tokenizer(), files, resume=resume, progress=run.progress)
    row = open_tokens(files, "train")
    return {
        "train_tokens": Score(len(row), "tokens"),
        "train_bytes": Score(row.num_bytes, "bytes"),
    }


def write_vocabulary(compacted: Compacted, folder: Path) -> None:
    """Everything about a compacted vocabulary but the tokenizer itself."""
    np.save(folder / "kept_V.npy", compacted.kept_V)
    np.save(folder / "counts_P.npy", compacted.counts_P)
    kept = compacted.kept_V.tolist()
    write_json(folder / "old_to_new.json", {str(old): new for new, old in enumerate(kept)})
    write_json(folder / "provenance.json", list(compacted.provenance))
    write_json(folder / "curve.json", [asdict(point) for point in compacted.curve])
    write_json(folder / "checks.json", [asdict(check) for check in compacted.checks])
    notes = {"size": compacted.size_reason, "warnings": list(compacted.warnings)}
    write_json(folder / "notes.json", notes)


def _size(run: Materials) -> Size:
    """What `[compact]` says about the size; a body is known from [design] or the parent."""
    recipe, table = run.recipe, run.recipe.compact
    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent).shape
    auto, max_share = table.vocab_size == "auto", table.max_share
    if auto and recipe.design.has_budget:
        # Whatever the vocabulary leaves goes to the body, so the sum is fixed: the paper's share.
        auto, max_share = False, PAPER_SHARE
    return Size(
        number=table.vocab_size if isinstance(table.vocab_size, int) else None,
        coverage=table.coverage,
        max_share=max_share,
        auto=auto,
        body_of=body_of(recipe, parent),
    )


PAPER_SHARE = 0.2
"""Largest share of a vocabulary in all parameters (paper, compact tokenizer)."""


def _counted(artifact: Artifact, table: CompactTable) -> Counted:
    train, choose, held_out = (Counts.load(artifact.path(part)) for part in _PARTS)
    if table.weights:
        train = train.weighted(table.weights)
    return Counted(train=train, choose=choose, held_out=held_out)


def _compact_scores(compacted: Compacted, parent_vocab_size: int) -> Scores:
    scores = {
        "vocab_size": Score(compacted.tokenizer.num_tokens, "tokens"),
        "parent_vocab_size": Score(parent_vocab_size, "tokens"),
        "coverage": Score(compacted.coverage, "share of tokens"),
        "tokens_per_byte": Score(compacted.tokens_per_byte, "tokens/byte"),
        "parent_tokens_per_byte": Score(compacted.parent_tokens_per_byte, "tokens/byte"),
        "dead_slots": Score(compacted.dead_slots, "tokens"),
    }
    if compacted.coverage_interval is not None:
        low, high = compacted.coverage_interval
        scores["coverage_low"] = Score(low, "share of tokens")
        scores["coverage_high"] = Score(high, "share of tokens")
    if compacted.law_vocab_size is not None:
        scores["law_vocab_size"] = Score(compacted.law_vocab_size, "tokens")
    return scores
