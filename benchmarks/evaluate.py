"""Stage 5: what reading common beginnings once saves, and how long ten benchmarks take.

With real questions: those in the folder POCKETLM_SHARED_DATA, by default `shared/data` beside the
project, in the forms and with the examples that published tables use (five for the examinations,
as letters), and the cloze form of what small models can do. `prefix_saving` is tokens read with
every choice from scratch over tokens read, all choices of all multiple-choice tasks together;
`prefix_speedup` the same in CPU seconds, over all items of fewer of them. Both for a random Llama
of 9.4M parameters with 8,000 tokens of the same texts, which reads 2,048 positions, since the
saving in seconds depends on the size; `stories_*` for tinystories-656k (512 positions, English).
`ten_minutes` is the whole pass over the paper's ten, XSum's writing included, as the clock shows
it, `ten_cpu_minutes` as processors spent it; `differs` the largest difference in nats between both
ways. Beside other work, set OMP_NUM_THREADS=1: threads that wait for each other tell nothing.

`agreement_*` and `items_per_s_vs_lm_eval` (_lm_eval.py) need `pip install 'pocketlm[harness]'` and
are absent without it; `smoke_*` (_smoke.py) need POCKETLM_MODEL=DIR, and no `--quick`.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import _lm_eval
import _smoke
from _form import Numbers, main
from pocketlm.corpus.tokenizer import Tokenizer, train_tokenizer
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.model.shape import Shape
from pocketlm.model.start import STARTS, base_config
from pocketlm.stages.evaluate.benchmarks import form_of, read_benchmarks, some_of
from pocketlm.stages.evaluate.choice import Reading, Scores, score_items
from pocketlm.stages.evaluate.items import Item
from pocketlm.stages.evaluate.prompts import build_items
from pocketlm.stages.evaluate.tasks import TASKS
from pocketlm.stages.evaluate.writing import write_items

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DATA = Path(os.environ.get("POCKETLM_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
SHOTS = {"ceval": 5, "cmmlu": 5, "mmlu": 5}
LETTERS = ("ceval", "cmmlu", "mmlu")
ENGLISH = ("boolq", "piqa", "blimp", "arc_e", "arc_c")
SHAPE = Shape(
    family="llama", vocab_size=8000, layers=10, hidden=256, heads=4, kv_heads=2, head_dim=64,
    ffn=704, tied=True,
)  # fmt: skip
POSITIONS = 2048


def measure(quick: bool) -> Numbers:
    """Tokens and seconds with and without sharing, and the time of ten benchmarks."""
    if not DATA.is_dir():
        sys.exit(f"no shared data in {DATA}; set POCKETLM_SHARED_DATA")
    items, compared = (3, 2) if quick else (200, 20)
    asked = _asked(items)
    tokenizer = train_tokenizer(_texts(asked), vocab_size=SHAPE.vocab_size)
    network = _network(tokenizer)
    how = Reading(context_tokens=POSITIONS)
    numbers = _both_ways(network, tokenizer, asked, how, compared)
    numbers |= _one_pass(network, tokenizer, asked, how)
    folder = DATA / "models" / "tinystories-656k"
    stories = {name: asked[name] for name in ENGLISH}
    small, its_own = load_child(folder).network(), load_tokenizer(folder)
    how = Reading(context_tokens=512)
    found = _both_ways(small, its_own, stories, how, items)
    numbers |= {f"stories_{name}": value for name, value in found.items()}
    if "POCKETLM_MODEL" in os.environ and not quick:
        numbers |= _smoke.measure(Path(os.environ["POCKETLM_MODEL"]), DATA / "eval")
    return numbers | _lm_eval.measure(DATA, quick)


def _asked(items: int) -> dict[str, list[Item]]:
    """Items of every task, as published tables ask them."""
    asked = {}
    for name, benchmark in read_benchmarks(DATA / "eval", []).items():
        task = TASKS[name]
        form = form_of(task, "letters" if name in LETTERS else "cloze")
        questions = some_of(benchmark.questions, items, name)
        shots = SHOTS.get(name, 0)
        made = build_items(task, questions, benchmark.examples, form=form, shots=shots)
        asked[name] = list(made)
    return asked


def _texts(asked: Mapping[str, Sequence[Item]]) -> Iterator[str]:
    for items in asked.values():
        for item in items:
            yield item.context[-2000:] + item.choices[0]


def _network(tokenizer: Tokenizer) -> "PreTrainedModel":
    shape = replace(SHAPE, vocab_size=tokenizer.num_tokens)
    config = base_config(
        shape, max_positions=POSITIONS, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    rng = torch.Generator().manual_seed(0)
    return STARTS["gpt2"].function(config, shape, rng).network()


def _both_ways(
    network: "PreTrainedModel",
    tokenizer: Tokenizer,
    asked: Mapping[str, Sequence[Item]],
    how: Reading,
    compared: int,
) -> Numbers:
    """Savings over multiple choice, the first `compared` items of each task."""
    read = alone = 0
    differs, seconds = 0.0, {True: 0.0, False: 0.0}
    per_task: Numbers = {}
    for name, items in asked.items():
        if items[0].form == "generation":
            continue
        found: dict[bool, Scores] = {}
        for share in (True, False):
            started = time.process_time()
            which = replace(how, share=share)
            found[share] = score_items(network, tokenizer, items[:compared], how=which)
            seconds[share] += time.process_time() - started
        shared = found[True]
        read, alone = read + shared.tokens_read, alone + shared.tokens_alone
        per_task[f"saving_{name}"] = shared.tokens_alone / shared.tokens_read
        pairs = zip(shared.records, found[False].records, strict=True)
        nats = ((a, b) for x, y in pairs for a, b in zip(x.nats, y.nats, strict=True))
        differs = max(differs, *(abs(a - b) for a, b in nats))
    return {
        "prefix_saving": alone / read,
        "prefix_speedup": seconds[False] / seconds[True],
        "differs": differs,
        **per_task,
    }


def _one_pass(
    network: "PreTrainedModel",
    tokenizer: Tokenizer,
    asked: Mapping[str, Sequence[Item]],
    how: Reading,
) -> Numbers:
    """Everything once: minutes, tokens a second, the saving over all items, and XSum alone."""
    read = alone = items = crossed = 0
    started, cpu = time.monotonic(), time.process_time()
    numbers: Numbers = {}
    for name, task in TASKS.items():
        if not task.in_paper:
            continue
        answer = write_items if asked[name][0].form == "generation" else score_items
        begun = time.process_time()
        scores = answer(network, tokenizer, asked[name], how=how)
        numbers[f"cpu_seconds_{name}"] = time.process_time() - begun
        items += len(scores.records)
        crossed += sum(record.seam > 0 for record in scores.records)
        if answer is score_items:
            read, alone = read + scores.tokens_read, alone + scores.tokens_alone
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    return {
        "ten_items": items,
        "ten_minutes": seconds / 60,
        "ten_cpu_minutes": cpu / 60,
        "ten_saving": alone / read,
        "seam_share": crossed / items,
        **numbers,
    }


if __name__ == "__main__":
    main(measure)
