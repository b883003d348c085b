"""What each file of a child costs and gives: bytes, bits per byte lost, speed against transformers.

    decode_best_vs_generate     new tokens a second of the fastest file that loses at most 2 % in
                                bits per byte, over those of `transformers.generate`, float32; one
                                thread, one sequence, the same prompt, arms taking turns
    bits_per_byte_loss_pct      what that file loses, % of the child's bits per byte
    FORMAT ...                  the same two, MB on disk, MB in memory, seconds to load

The child is the folder POCKETLM_CHILD (config.json, safetensors, tokenizer), by default the parent
of the demo; the text is POCKETLM_TEXT (a glob), by default Python's own sources. `--quick` takes
three formats and less text. Needs the gguf extra. The table of the model card goes to standard
output first.
"""

import os
import tempfile
import time
from pathlib import Path

import torch

from _form import Numbers, main
from pocketlm.corpus.documents import load_corpus
from pocketlm.corpus.tokenizer_files import load_tokenizer
from pocketlm.model.checkpoint import load_child
from pocketlm.stages.evaluate.bits import document_bits
from pocketlm.stages.export import FORMATS, Exported, export
from pocketlm.stages.export.k_quants import is_k_quant
from pocketlm.stages.export.llama_cpp_speed import SpeedJob, time_llama_cpp
from pocketlm.stages.export.terms import Terms

CHILD = Path(os.environ.get("POCKETLM_CHILD") or Path(__file__).parents[1] / "recipes/demo-parent")
TEXT = os.environ.get("POCKETLM_TEXT") or "stdlib"
MAX_LOSS_PCT = 2.0
PROMPT_TOKENS, NEW_TOKENS = 8, 128


def measure(quick: bool) -> Numbers:
    """Every format of one child."""
    torch.set_num_threads(1)
    child, tokenizer = load_child(CHILD), load_tokenizer(CHILD)
    corpus = load_corpus([TEXT])
    held_out = [d.text for d in corpus.sample("held-out", max_bytes=20_000 if quick else 100_000)]
    check_texts = [text for text, _ in zip(corpus.texts("choose"), range(64), strict=False)]

    def bits(network: object) -> float:
        found = document_bits(network, tokenizer, held_out, context=256)
        return float(found.bits_N.sum() / found.bytes_N.sum())

    kinds = ["huggingface", "gguf-q8_0", "gguf-q4_0"]
    formats = kinds if quick else [name for name in FORMATS if not is_k_quant(name)]
    terms = Terms(bits_per_byte=bits, speed_tokens=16 if quick else 64)
    with tempfile.TemporaryDirectory() as folder:
        exported = export(child, tokenizer, Path(folder), formats=formats, check_texts=check_texts,
                          lineage={"recipe": CHILD.name}, terms=terms)  # fmt: skip
        card = (Path(folder) / "card.md").read_text()
        print(card[card.index("| format | bits") : card.index("## Intended use")])
        files = {f.format: Path(folder) / f.path for f in exported.files if f.path.endswith("gguf")}
        prompt = tokenizer.encode(held_out[0])[:PROMPT_TOKENS]
        ratios = _against_generate(child.network(), files, prompt, rounds=2 if quick else 6)
    return _numbers(exported, ratios)


def _against_generate(
    network: object, files: dict[str, Path], prompt: list[int], rounds: int
) -> Numbers:
    """New tokens a second of each arm, prompt included, the best of `rounds`; they take turns."""
    best = dict.fromkeys(["generate", *files], float("inf"))
    job = SpeedJob(
        models=list(map(str, files.values())), prompts=[prompt] * len(files),
        new_tokens=NEW_TOKENS, rounds=2,
    )  # fmt: skip
    for _ in range(rounds):
        for _ in range(2):
            started = time.perf_counter()
            out = network.generate(
                torch.tensor([prompt]), min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            assert out.shape[1] == len(prompt) + NEW_TOKENS
            best["generate"] = min(best["generate"], time.perf_counter() - started)
        for of_round in time_llama_cpp(job):
            for name, (first, others) in zip(files, of_round, strict=True):
                best[name] = min(best[name], first + others)
    return {name: NEW_TOKENS / seconds for name, seconds in best.items()}


def _numbers(exported: Exported, tokens_per_s: Numbers) -> Numbers:
    scores = {name: score.value for name, score in exported.scores.items()}
    numbers: Numbers = {"generate tokens_per_s": tokens_per_s["generate"]}
    losses: Numbers = {}
    for name, speed in tokens_per_s.items():
        if name == "generate":
            continue
        losses[name] = scores[f"{name}.bits_per_byte_loss_pct"]
        numbers |= {
            f"{name} decode_vs_generate": speed / tokens_per_s["generate"],
            f"{name} bits_per_byte_loss_pct": losses[name],
            f"{name} MB": scores[f"{name}.bytes"] / 1e6,
            f"{name} memory_MB": scores[f"{name}.peak_bytes"] / 1e6,
            f"{name} load_s": scores[f"{name}.load_s"],
            f"{name} prefill_tokens_per_s": scores[f"{name}.prefill_tokens_per_s"],
        }
    allowed = [name for name, loss in losses.items() if loss <= MAX_LOSS_PCT]
    fastest = max(allowed, key=lambda name: tokens_per_s[name])
    return {
        "decode_best_vs_generate": tokens_per_s[fastest] / tokens_per_s["generate"],
        "bits_per_byte_loss_pct": losses[fastest],
        **numbers,
    }


if __name__ == "__main__":
    main(measure)
