"""The steps that look at the trained child: evaluate and export."""

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.model.cost import count_params
from pocketlm.steps.benchmarks import run_benchmarks
from pocketlm.steps.materials import Materials, Scores, write_json
from pocketlm.steps.terms import export_terms

if TYPE_CHECKING:
    from pocketlm.stages.evaluate import Model

_CHECK_TEXTS = 64


def evaluate_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Parent and child on the same held-out text, then their speed and a sample of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pocketlm.stages.evaluate import evaluate
    from pocketlm.stages.evaluate.sample import Prompt

    table, parent = run.recipe.evaluate, run.inputs.parent
    documents = run.inputs.corpus.sample("held-out", max_bytes=table.max_bytes)
    opening = " ".join(documents[0].text.split(" ")[:12])
    models = {"child": _model(run.made["train"].folder, run.tokenizer())}
    if parent is not None:
        models["parent"] = _model(parent, load_tokenizer(parent))
    evaluation = evaluate(
        models["child"],
        models.get("parent"),
        documents,
        context=run.recipe.train.seq_len,
        speed_tokens=table.speed_tokens,
        prompt=Prompt(text=table.prompt or opening, new_tokens=table.sample_tokens),
        rng=run.rng("evaluate"),
    )
    pq.write_table(pa.table(dict(evaluation.per_document)), files / "documents.parquet")
    write_json(files / "samples.json", dict(evaluation.samples))
    write_json(files / "prompt.json", table.prompt or opening)
    write_json(files / "spread.json", {k: asdict(v) for k, v in evaluation.spread.items()})
    return dict(evaluation.scores) | run_benchmarks(run, models, files)


def export_step(run: Materials, files: Path, resume: Path) -> Scores:
    """Every format the recipe names, each verified."""
    from pocketlm.stages.export import export

    child = load_child(run.made["train"].folder)
    check_texts = list(islice(run.inputs.corpus.texts("choose"), _CHECK_TEXTS))
    lineage = {
        "recipe": run.recipe.name,
        "parent": run.recipe.parent_name or "none",
        "parent key": run.inputs.parent_key or "none",
        "corpus key": run.inputs.corpus_key,
        "train key": run.made["train"].key,
    }
    exported = export(
        child,
        run.tokenizer(),
        files,
        formats=run.recipe.export.formats,
        check_texts=check_texts,
        lineage=lineage,
        terms=export_terms(run, child.shape),
    )
    write_json(files / "files.json", [asdict(file) for file in exported.files])
    return exported.scores


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
