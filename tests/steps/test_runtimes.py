"""Shapes timed in llama.cpp: files as large as cost says, seconds of the shapes asked for."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pocketlm import showing
from pocketlm.errors import RecipeError
from pocketlm.model.cost import WEIGHT_FORMATS, weight_bytes
from pocketlm.model.shape import Shape
from pocketlm.pipeline import make
from pocketlm.recipe import load_recipe
from pocketlm.stages.design import TRANSFORMERS, Runtime
from pocketlm.stages.design.timed import time_shapes
from pocketlm.steps.runtimes import _write, timed_runtime
from pocketlm.summary import shape_notes

NEEDED = "the extra `gguf` is not installed"


def plain(layers: int, hidden: int, *, tied: bool = True) -> Shape:
    return Shape(family="llama", vocab_size=320, layers=layers, hidden=hidden, heads=2, kv_heads=1,
                 head_dim=hidden // 2, ffn=2 * hidden, tied=tied)  # fmt: skip


@pytest.mark.parametrize("weight_format", WEIGHT_FORMATS)
@pytest.mark.parametrize("hidden", [64, 48])  # 48: no whole blocks in most rows
def test_a_timed_file_holds_as_many_bytes_as_cost_says(
    weight_format: str, hidden: int, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf", reason=NEEDED)
    shape = plain(2, hidden, tied=False)
    _write(shape, tmp_path / "it.gguf", weight_format)
    tensors = gguf.GGUFReader(tmp_path / "it.gguf").tensors
    # ggml keeps vectors in float32 whatever the matrices are; bf16 is also a safetensors format.
    vectors = sum(t.n_elements for t in tensors if len(t.shape) == 1)
    extra = 2 * vectors if weight_format == "bf16" else 0
    assert sum(int(t.n_bytes) for t in tensors) == weight_bytes(shape, weight_format) + extra


def test_llama_cpp_times_the_shapes_asked_for() -> None:
    pytest.importorskip("xllamacpp", reason=NEEDED)
    shapes = [plain(1, 32), plain(24, 64)]
    shallow, deep = time_shapes(shapes, timed_runtime("llama.cpp", "q4_0"), prompt_tokens=8,
                                new_tokens=8, repeats=3, rng=np.random.default_rng(0))  # fmt: skip
    assert (shallow.shape, deep.shape) == tuple(shapes)
    assert deep.token_s.min > shallow.token_s.min > 0
    assert deep.prompt_s.min > shallow.prompt_s.min > 0


def test_a_recipe_ranks_and_predicts_in_llama_cpp(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason=NEEDED)
    few = {"_FITTED": ((1, 32), (3, 32), (1, 64), (2, 64)), "_CHECKED": ((2, 32),)}
    for name, sizes in few.items():
        monkeypatch.setattr(f"pocketlm.stages.design.latency.{name}", sizes)
    changes = {"design.runtime": "llama.cpp", "design.rank": "measured"}
    recipe = load_recipe(tiny_recipe, changes=changes)
    artifact = make(recipe, out=tmp_path, until="design").artifacts["design"]
    speed = json.loads(artifact.path("speed.json").read_text())
    assert (speed["runtime"], speed["weight_format"]) == ("llama.cpp", "q8_0")
    notes = shape_notes(artifact)
    assert notes is not None
    assert notes.runtime == "llama.cpp, q8_0"
    assert all(line.timed and line.timed.tokens_per_s > 0 for line in notes.short_list)


def test_a_missing_llama_cpp_is_named_before_anything_runs(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketlm.stages.export.gguf.find_spec", lambda name: None)
    recipe = load_recipe(tiny_recipe, changes={"design.runtime": "llama.cpp"})
    message = r"runtime = 'llama\.cpp' needs gguf and xllamacpp: pip install 'pocketlm\[gguf\]'"
    with pytest.raises(RecipeError, match=message):
        make(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert timed_runtime("transformers", "q8_0") is TRANSFORMERS


def test_show_says_how_far_the_lines_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in runtime: a millisecond a layer, one shape half as fast as the lines can know."""

    def rounds(
        shapes: Sequence[Shape], prompts_ST: Sequence[list[int]], new_tokens: int, count: int
    ) -> np.ndarray:
        seconds_S = [s.layers * (2e-3 if s.hidden == 640 else 1e-3) for s in shapes]
        return np.array([[[s, (new_tokens - 1) * s] for s in seconds_S]] * count)

    fake = Runtime(name="llama.cpp", weight_format="q8_0", time_rounds=rounds)
    monkeypatch.setattr("pocketlm.steps.runtimes.timed_runtime", lambda name, kept: fake)
    table, lines = showing.fitted_here("llama.cpp")
    errors = {row["shape"]: row["error"] for row in table["checked"]}
    assert len(errors) == 12
    assert errors.pop("3 x 640") == pytest.approx(1)
    assert all(abs(error) < 1e-6 for error in errors.values())
    assert table["checked"][0]["tokens_per_s_median"] == pytest.approx(250)
    assert lines[1].startswith("llama.cpp, q8_0: 0.00 ms + 1000 us a layer + 0 ns an output")
    assert "largest error 100.0% over 12 shapes not fitted" in lines
    with pytest.raises(RecipeError, match=r"--runtime lama\.cpp: .* did you mean 'llama\.cpp'"):
        showing.fitted_here("lama.cpp")
