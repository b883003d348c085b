"""Held against lm-evaluation-harness: the same choices item by item, and how fast.

Its side is all its own: the templates of its task files, filled by it from the raw rows, its HFLM,
its normalisers; and transformers reads the folder's tokenizer.json, by the class that takes it as
it is: AutoTokenizer of transformers 5 builds a LlamaTokenizer anew from vocabulary and merges, and
that one drops characters the vocabulary lacks instead of writing <unk>. Ours: our readers of the
same files, our prompts, our scoring with the seam `lm-eval`. Both use one network, in float32.

English tasks are asked of tinystories-656k of the shared data; CMMLU of the demo parent, whose
bytes can write Chinese: the other's vocabulary cannot. Both read 512 tokens, so contexts are cut.
"""

import io
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from _form import Numbers, best_seconds
from pocketlm.corpus.rows import read_rows
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.evaluating import open_network
from pocketlm.stages.evaluate.benchmarks import some_of
from pocketlm.stages.evaluate.choice import Reading, Scores, score_items
from pocketlm.stages.evaluate.columns import from_records
from pocketlm.stages.evaluate.find import read_benchmark
from pocketlm.stages.evaluate.items import Item
from pocketlm.stages.evaluate.metrics import NEAR, answers
from pocketlm.stages.evaluate.prompts import build_items
from pocketlm.stages.evaluate.reader import max_context
from pocketlm.stages.evaluate.tasks import TASKS

DEMO_PARENT = Path(__file__).parents[1] / "recipes" / "demo-parent"
NORMALISERS = ("none", "characters")  # lm-eval's acc and acc_norm
BATCHES = (1, 8, 32)
"""HFLM's batch sizes; the best one counts."""


class Case(NamedTuple):
    """One of lm-eval's tasks, in the folder of its task files, and ours that asks the same."""

    task: str
    form: str
    template: str
    items: int | None
    """None: all."""


CASES = (
    Case("boolq", "cloze", "super_glue/boolq/default.yaml", None),
    Case("piqa", "cloze", "piqa/piqa.yaml", None),
    Case("mmlu", "letters", "mmlu/default/mmlu_{}.yaml", 500),
    Case("mmlu", "cloze", "mmlu/continuation/mmlu_{}.yaml", 500),
    Case("cmmlu", "letters", "cmmlu/cmmlu_{}.yaml", 500),
)
QUICK = (*CASES[:3], CASES[4])
TIMED = 40
"""Items of each case that are timed."""


@dataclass(frozen=True)
class Opened:
    """One network behind both doors."""

    network: Any
    tokenizer: Any
    folder: Path
    context: int

    def score(self, items: Sequence[Item]) -> Scores:
        """Ours."""
        how = Reading(context_tokens=self.context, seam="lm-eval")
        return score_items(self.network, self.tokenizer, items, how=how)

    def harness(self, batch_size: int) -> Any:
        """Its HFLM."""
        from lm_eval.models.huggingface import HFLM
        from transformers import PreTrainedTokenizerFast

        return HFLM(
            pretrained=self.network, batch_size=batch_size, max_length=self.context, device="cpu",
            tokenizer=PreTrainedTokenizerFast.from_pretrained(self.folder),
        )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Requests of lm-eval in the order of our items, and the choices it counts characters of."""

    items: list[Item]
    requests: list[Any]
    choices_N: list[list[str]]


def measure(data: Path, quick: bool) -> Numbers:
    """Agreement of each task and the ratio of speeds; nothing where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        print("agreement and speed against lm-eval: pip install 'pocketlm[harness]'")
        return {}
    logging.disable(logging.WARNING)  # HFLM says every context that it cuts
    torch.set_num_threads(1)
    stories = _open(data / "models" / "tinystories-656k")
    demo = _open(DEMO_PARENT)
    numbers: Numbers = {}
    rates = defaultdict(list)
    with TemporaryDirectory() as folder:
        for case in QUICK if quick else CASES:
            asked = _asked(case, data, Path(folder), 4 if quick else case.items)
            opened = demo if TASKS[case.task].language == "zh" else stories
            numbers |= _agreement(case, opened, asked)
            rates[opened.folder].append(_first(asked, 4 if quick else TIMED))
    timed = _joined([asked for parts in rates.values() for asked in parts])
    for name in {case.task for case in CASES}:
        shares = [v for k, v in numbers.items() if k.startswith(f"agreement_{name}_")]
        numbers[f"agreement_{name}"] = min(shares)
    return numbers | _speed(demo, timed, BATCHES[1:2] if quick else BATCHES, 1 if quick else 2)


def _open(folder: Path) -> Opened:
    network = open_network(folder)
    return Opened(network, load_tokenizer(folder), folder, max_context(network))


def _asked(case: Case, data: Path, folder: Path, at_most: int | None) -> Asked:
    """Our items, and the requests of lm-eval's own tasks for the same rows."""
    task = TASKS[case.task]
    benchmark = read_benchmark(data / "eval", task)
    questions = some_of(benchmark.questions, at_most, case.task)
    items = list(build_items(task, questions, form=case.form, shots=0))
    rows = _rows(case.task, data / "eval")
    wanted: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        wanted[item.question.part].append(item)
    made: dict[str, tuple[list[Any], list[str]]] = {}
    for part, some in wanted.items():
        file = folder / f"{case.task}-{case.form}-{part}.jsonl"
        lines = [json.dumps(rows[item.question.id], ensure_ascii=False) for item in some]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for item, own in zip(some, _requests(case.template.format(part), file), strict=True):
            made[item.question.id] = own
    in_order = [made[item.question.id] for item in items]
    return Asked(items, [r for own, _ in in_order for r in own], [c for _, c in in_order])


def _rows(task: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Raw rows by our ids, with the columns of the sets that lm-eval reads from the hub."""
    found, number = {}, defaultdict(int)
    for row in read_rows(next(folder.glob(f"{task}*.jsonl.gz"))):
        if task in ("boolq", "piqa"):
            label = {"false": 0, "true": 1}.get(row["label"], row["label"])
            found[str(row.get("idx", len(found)))] = {**row, "label": label}
        elif row["split"] == "test":
            place = f"test/{row['subject']}/{number[row['subject']]}"
            number[row["subject"]] += 1
            options = dict(zip("ABCD", row["choices"], strict=True))
            chinese = {"Question": row["question"], **options, "Answer": row["answer"]}
            english = {**row, "answer": "ABCD".index(row["answer"])}
            found[place] = chinese if task == "cmmlu" else english
    return found


def _requests(template: str, file: Path) -> Iterator[tuple[list[Any], list[str]]]:
    """What lm-eval's task asks for each row of a file, and the row's choices."""
    import lm_eval
    import yaml
    from lm_eval.api.task import ConfigurableTask

    path = Path(lm_eval.__file__).parent / "tasks" / template
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "include" in config:
        base = path.parent / config.pop("include")
        config = yaml.safe_load(base.read_text(encoding="utf-8")) | config
    split = config.get("test_split") or config["validation_split"]
    for key in ("dataset_name", "training_split", "fewshot_split", "fewshot_config"):
        config.pop(key, None)
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {split: str(file)}}}
    with redirect_stderr(io.StringIO()):  # a bar for every subject
        task = ConfigurableTask(config=config, cache_dir=str(file.parent / "cache"))
        task.build_all_requests()
    by_doc: dict[int, list[Any]] = defaultdict(list)
    for request in task.instances:
        by_doc[request.doc_id].append(request)
    for number, document in enumerate(task.eval_docs):
        yield by_doc[number], task.doc_to_choice(document)


def _agreement(case: Case, opened: Opened, asked: Asked) -> Numbers:
    """Share of equal choices over both normalisers, near ties left out and counted."""
    records = opened.score(asked.items).records
    found = opened.harness(batch_size=8).loglikelihood(asked.requests, disable_tqdm=True)
    theirs = iter(-log for log, _ in found)
    nats_N = [[next(theirs) for _ in own] for own in asked.choices_N]
    columns = from_records(records)
    same = near = compared = 0
    for normaliser in NORMALISERS:
        own = answers(columns, normaliser)
        for n, (nats_C, choices) in enumerate(zip(nats_N, asked.choices_N, strict=True)):
            lengths_C = [len(c) if normaliser == "characters" else 1 for c in choices]
            scores_C = np.array(nats_C) / lengths_C
            best, second = np.sort(scores_C)[:2]
            if second - best < NEAR or own.near_N[n]:
                near += 1
                print("near tie:", case.task, records[n].item, normaliser, second - best)
                continue
            compared += 1
            same += int(scores_C.argmin()) == own.chosen_N[n]
            if int(scores_C.argmin()) != own.chosen_N[n]:
                print("differs:", case.task, records[n].item, records[n].nats, nats_C)
    pairs = zip((r.nats for r in records), nats_N, strict=True)
    differs = max(abs(a - b) for ours, its in pairs for a, b in zip(ours, its, strict=True))
    own_prompts = iter((i.context, c) for i in asked.items for c in i.choices)
    equal = sum(tuple(r.args) == next(own_prompts) for r in asked.requests)
    name = f"{case.task}_{case.form}"
    return {
        f"agreement_{name}": same / compared,
        f"items_{name}": len(records),
        f"near_ties_{name}": near,
        f"differs_{name}": differs,
        f"cut_{name}": sum(record.context_cut > 0 for record in records),
        f"prompts_equal_{name}": equal / len(asked.requests),
    }


def _first(asked: Asked, count: int) -> Asked:
    rows = sum(len(own) for own in asked.choices_N[:count])
    return Asked(asked.items[:count], asked.requests[:rows], asked.choices_N[:count])


def _joined(parts: Sequence[Asked]) -> Asked:
    return Asked(
        [item for part in parts for item in part.items],
        [request for part in parts for request in part.requests],
        [own for part in parts for own in part.choices_N],
    )


def _speed(opened: Opened, asked: Asked, batches: Sequence[int], repeats: int) -> Numbers:
    """CPU seconds of all items, both ways in turn: HFLM at its best batch size on them."""
    theirs = {size: opened.harness(size) for size in batches}
    arms: dict[str, Callable[[], object]] = {
        str(size): partial(lm.loglikelihood, asked.requests, disable_tqdm=True)
        for size, lm in theirs.items()
    }
    first = best_seconds(arms, 1)
    best = min(first, key=first.__getitem__)
    print(f"{len(asked.items)} items; HFLM by batch size, CPU s: {first}", file=sys.stderr)
    arms = {"lm_eval": arms[best], "ours": partial(opened.score, asked.items)}
    seconds = best_seconds(arms, repeats)
    return {
        "items_per_s_vs_lm_eval": seconds["lm_eval"] / seconds["ours"],
        "items_per_s": len(asked.items) / seconds["ours"],
        "lm_eval_items_per_s": len(asked.items) / seconds["lm_eval"],
        "lm_eval_batch_size": int(best),
    }
