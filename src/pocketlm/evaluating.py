"""`pocketlm evaluate --model DIR`: any model of transformers, without a recipe.

What is asked: benchmarks out of the user's files, bits per byte of held-out text, speed here.
Nothing is fetched and no code of the model's is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.artifact import Score, sha256_of
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer import Tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.errors import OutputError, ParentError, RecipeError
from pocketlm.progress import SILENT, Progress
from pocketlm.recipe import EvaluateTable
from pocketlm.steps.benchmarks import asking_of, task_scores
from pocketlm.steps.materials import Scores, write_json
from pocketlm.tables import build_table, parse_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROW = "{:<10} {:<14} {:>6} {:>7} {:>14} {:>7} {:>10}"
_WEIGHTS = "*.safetensors"
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.*", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is evaluated, and by what."""

    model: Path
    """Folder with config.json, safetensors and a tokenizer."""
    table: EvaluateTable
    corpus: tuple[str, ...] = ()
    """Globs of text whose held-out part gives bits per byte; empty: none."""
    lm_eval_tasks: Path | None = None
    """New folder for what is asked, as tasks of lm-eval."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Every number, and the folder of records where one was asked for."""

    scores: Mapping[str, Score]
    benchmarks: Mapping[str, Any] | None
    """As benchmarks.json."""
    out: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Flat numbers."""
        return {name: score.value for name, score in self.scores.items()}

    def lines(self) -> list[str]:
        """Tasks in the order of the paper's table, then everything else."""
        tasks = self.benchmarks["models"]["child"]["tasks"] if self.benchmarks else []
        lines = []
        if tasks:
            head = ("task", "asked", "n", "score", "95 %", "chance", "bits/byte")
            lines = [_ROW.format(*head), *(_line(task) for task in tasks), ""]
        names = {f"model.{task['task']}" for task in tasks}
        ends = ("", "_low", "_high", "_bits_per_byte")
        in_table = {name + end for name in names for end in ends}
        lines += [
            f"{name.removeprefix('model.'):<24} {score.value:<12.6g} {score.unit}"
            for name, score in self.scores.items()
            if name not in in_table
        ]
        return [*lines, f"records  {self.out}"] if self.out else lines


def read_request(
    model: Path,
    *,
    data: Path | None,
    tasks: str,
    corpus: Sequence[str],
    settings: Sequence[str],
    lm_eval_tasks: Path | None = None,
) -> Request:
    """A request from words of the command line; `settings` are keys of `[evaluate]`.

    Raises `RecipeError` for a wrong key and where nothing is asked.
    """
    if lm_eval_tasks is not None and data is None:
        raise RecipeError("--lm-eval-tasks: no benchmark is asked; give --data DIR")
    given = parse_settings(settings)
    wrong = [key for key in given if not key.startswith("evaluate.")]
    if wrong:
        raise RecipeError(f"--set {wrong[0]}: without a recipe only keys of evaluate are taken")
    keys = {key.removeprefix("evaluate."): value for key, value in given.items()}
    if data is not None:
        keys |= {"data": str(data)}
    if tasks:
        keys |= {"tasks": [name.strip() for name in tasks.split(",") if name.strip()]}
    table = build_table(EvaluateTable, keys, "evaluate")
    return Request(model=model, table=table, corpus=tuple(corpus), lm_eval_tasks=lm_eval_tasks)


def evaluate_model(
    request: Request, out: Path | None = None, *, progress: Progress = SILENT
) -> Evaluated:
    """Ask the model what the request says; `out` is a new folder for the records.

    Raises `ParentError` for a folder that is no model, `RecipeError`, `CorpusError`, `StageError`,
    and `OutputError` where `out` is not new.
    """
    from pocketlm.stages.evaluate.benchmarks import check_asking
    from pocketlm.stages.evaluate.reader import max_context

    table = request.table
    check_asking(table.tasks, table.normaliser, table.seam, where="")
    if out is not None and out.exists():
        raise OutputError(f"--out {out}: is there already; give a new folder")
    tokenizer = load_tokenizer(request.model)
    network = open_network(request.model)
    num_params = sum(parameter.numel() for parameter in network.parameters())
    scores: Scores = {"model.params": Score(num_params, "parameters")}
    context = table.context or max_context(network)
    if request.corpus:
        scores |= _text_scores(network, tokenizer, request, context)
    found, kept = None, None
    if table.data is not None:
        size = num_params, context
        found, kept, tokens = _benchmarks(network, tokenizer, request, size, progress)
        scores |= task_scores(found["models"]["child"], "model.") | tokens
    if table.speed_tokens:
        scores |= _speed_scores(network, table.speed_tokens)
    if out is not None:
        _write(out, scores, found, kept)
    return Evaluated(scores=scores, benchmarks=found, out=out)


def open_network(folder: Path) -> "PreTrainedModel":
    """A model of transformers in float32, from safetensors alone; raises `ParentError`."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from pocketlm.model.pangu_pi import register

    if not (folder / "config.json").is_file():
        raise ParentError(f"--model {folder}: no config.json; give a model folder of transformers")
    register()
    disable_progress_bar()
    try:
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype="float32",
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ParentError(f"--model {folder}: transformers cannot open it ({reason})") from None
    return network.eval()


def _benchmarks(
    network: "PreTrainedModel",
    tokenizer: Tokenizer,
    request: Request,
    size: tuple[int, int],
    progress: Progress,
) -> tuple[dict[str, Any], Any, Scores]:
    """The table behind benchmarks.json, the records with their provenance, and what it took."""
    from pocketlm.stages.evaluate.benchmarks import Identity, ask, read_benchmarks
    from pocketlm.stages.evaluate.lm_eval_tasks import write_lm_eval_tasks
    from pocketlm.stages.evaluate.results import results

    asking = asking_of(request.table, num_params=size[0], context=size[1])
    benchmarks = read_benchmarks(Path(str(request.table.data)), request.table.tasks)
    if request.lm_eval_tasks is not None:
        write_lm_eval_tasks(request.lm_eval_tasks, benchmarks, asking)
    identity = Identity(
        tokenizer=_sha256(request.model, _TOKENIZER), weights=_sha256(request.model, (_WEIGHTS,))
    )
    answered = ask(network, tokenizer, benchmarks, asking, identity, progress=progress)
    kept = answered.columns, answered.provenance
    saved = answered.tokens_alone - answered.tokens_read
    tokens = {
        "model.benchmark_tokens": Score(answered.tokens_read, "tokens read"),
        "model.benchmark_tokens_saved": Score(saved, "tokens not read twice"),
    }
    return results({"child": kept}), kept, tokens


def _text_scores(
    network: "PreTrainedModel", tokenizer: Tokenizer, request: Request, context: int
) -> Scores:
    """Bits per byte of the held-out part, with its interval over documents."""
    from pocketlm.stages.evaluate.bits import document_bits
    from pocketlm.stages.evaluate.reader import open_reader
    from pocketlm.stages.evaluate.summarise import summarise

    open_reader(network, autocast=False, batch_tokens=None, share=False)  # refuses capped logits
    corpus = load_corpus(request.corpus, text_field="text", max_bytes=None)
    documents = corpus.sample("held-out", max_bytes=request.table.max_bytes)
    if not documents:
        raise RecipeError("--corpus: its held-out part is empty; give more text")
    texts = [document.text for document in documents]
    bits = document_bits(network, tokenizer, texts, context=context)
    sources = [document.source for document in documents]
    summary = summarise({"model": bits.bits_N}, bits.bytes_N, sources, rng=np.random.default_rng(0))
    own, unit = summary.overall["model"], "bits/byte of held-out text"
    scores = {"model.bits_per_byte": Score(own.value, unit)}
    if own.low is not None and own.high is not None:
        scores["model.bits_per_byte_low"] = Score(own.low, unit)
        scores["model.bits_per_byte_high"] = Score(own.high, unit)
    return scores


def _speed_scores(network: "PreTrainedModel", tokens: int) -> Scores:
    from pocketlm.model.timing import measure_speed
    from pocketlm.stages.evaluate.speed import PEAK_UNIT, UNITS, spreads

    speed = measure_speed(
        network, prompt_tokens=tokens, new_tokens=max(2, tokens), rng=np.random.default_rng(0)
    )
    scores = {f"model.{name}": Score(s.median, UNITS[name]) for name, s in spreads(speed).items()}
    return scores | {"model.peak_bytes": Score(speed.peak_bytes, PEAK_UNIT)}


def _write(out: Path, scores: Scores, found: dict[str, Any] | None, kept: Any) -> None:
    from pocketlm.stages.evaluate.records import CHILD_ITEMS, write_records

    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written ({error.strerror})") from None
    write_json(out / "scores.json", {name: vars(score) for name, score in scores.items()})
    if found is not None:
        columns, provenance = kept
        write_records(columns, provenance, out / CHILD_ITEMS)
        write_json(out / "benchmarks.json", found)


def _sha256(folder: Path, patterns: Sequence[str]) -> str:
    """One hash over the hashes of some files of a folder."""
    import hashlib

    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()


def _line(task: Mapping[str, Any]) -> str:
    score = task["in_table"]
    ends = "" if score["low"] is None else f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"
    asked = f"{task['form']}, {task['shots']}" if task["shots"] else task["form"]
    numbers = (f"{100 * score['value']:.1f}", ends, f"{100 * task['chance']:.1f}")
    return _ROW.format(
        task["task"], asked, task["num_items"], *numbers, f"{task['bits_per_byte']['value']:.3f}"
    )
