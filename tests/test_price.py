"""Prices: equal to arithmetic by hand, and there before any data is."""

import json
from pathlib import Path

import pytest

from pocketlm.choices import check_choices
from pocketlm.cli import run
from pocketlm.errors import CorpusError, RecipeError
from pocketlm.estimate import quote
from pocketlm.model.shape import Shape
from pocketlm.pipeline import plan
from pocketlm.price import Price, price
from pocketlm.recipe import Recipe, TrainTable, load_recipe
from pocketlm.units import show_bytes, show_count

PLANNED = 1_600_000_000_000
PRESETS = {"1b": (12, 2048, 100_883), "1b-pro": (21, 1792, 48_000), "1.5b-pro": (22, 2048, 48_000)}
KEYS = {
    "params", "params_by_part", "weight_bytes", "decode_bytes", "kv_bytes", "flops", "gpu_days",
    "training_state_bytes", "training_block_bytes",
}  # fmt: skip


@pytest.fixture
def pro(root: Path) -> Recipe:
    return load_recipe(root / "recipes" / "paper" / "1b-pro.toml")


def test_1b_pro_equals_arithmetic_by_hand(pro: Recipe, tmp_path: Path) -> None:
    found = quote(pro, out=tmp_path).price
    layer_matrices = 4 * 1792**2 + 3 * 1792 * 4992
    table = 48_000 * 1792
    params = 21 * (layer_matrices + 2 * 1792) + 1792 + 2 * table
    assert found.num_params == sum(found.params_by_part.values()) == params
    assert found.weight_bytes["f32"] == 4 * params
    matrices = 21 * layer_matrices + 2 * table
    norms = params - matrices
    assert found.weight_bytes["q8_0"] == matrices * 34 // 32 + 4 * norms
    assert found.kv_bytes == 2048 * 2 * 21 * 1792 * 2
    assert found.training_state_bytes == 16 * params
    attention = 2 * 1024.5 * 1792 * 21  # q.k and p.v, mean of 1 to 2048 positions
    forward = 2 * (21 * layer_matrices + table + attention)
    assert found.forward_flops_per_token == pytest.approx(forward, rel=1e-12)
    flops = PLANNED * forward * (3 + 0.5 * 3 + 1)  # a round, half a round, a pass that scores
    assert found.flops == pytest.approx(flops, rel=1e-12)
    assert found.gpu_days == pytest.approx(flops / (0.4 * 989e12 * 86_400), rel=1e-12)


@pytest.mark.parametrize(("layers", "millions"), [(20, 963), (21, 1002)])
def test_parameters_at_a_ratio_of_277(layers: int, millions: int) -> None:
    """Plain attention and SwiGLU of 2.77 x 1792, untied."""
    assert _price(layers=layers, ffn=4964).num_params == pytest.approx(millions * 1e6, abs=5e5)


def test_flops_of_the_public_configuration() -> None:
    """20 x 1792 with an FFN of 4864: 5.64 GFLOP per token trained, causal attention once."""
    assert _price(layers=20, ffn=4864).training_flops_per_token == pytest.approx(5.64e9, rel=1e-3)


@pytest.mark.parametrize(
    ("rounds", "resample", "passes"),
    [(0, "softmax-loss", 0), (1, "softmax-loss", 1), (2, "softmax-loss", 11 / 6),
     (3, "softmax-loss", 16 / 6), (2, "uniform", 1.5)],
)  # fmt: skip
def test_rounds_and_scoring_count(rounds: int, resample: str, passes: float) -> None:
    table = TrainTable(rounds=rounds, resample=resample)
    assert _price(table).passes == pytest.approx(passes)


def test_days_follow_the_stated_rate() -> None:
    base = _price()
    assert _price(mfu=0.2).gpu_days == pytest.approx(2 * base.gpu_days)
    assert _price(peak_flops=2 * base.peak_flops).gpu_days == pytest.approx(base.gpu_days / 2)
    for wrong in ({"mfu": 0.0}, {"mfu": 40.0}, {"peak_flops": 0.0}, {"peak_flops": float("nan")}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            _price(**wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_priced_without_data(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "recipes" / "paper" / f"{name}.toml"
    check_choices(load_recipe(path))
    out = tmp_path / "out"
    assert run(["plan", str(path), "--out", str(out), "--mfu", "0.5", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert "matches no file" in table["missing"]
    priced, shape = table["price"], table["price"]["shape"]
    assert (shape["layers"], shape["hidden"], shape["vocab_size"]) == PRESETS[name]
    assert shape["hidden"] == shape["heads"] * 128
    assert (priced["tokens"], priced["mfu"]) == (PLANNED, 0.5)
    assert priced.keys() >= KEYS
    assert priced["decode_bytes"].keys() == {"f32", "f16", "q8_0", "q4_0"}
    assert run(["plan", str(path), "--out", str(out)]) == 0
    lines = capsys.readouterr().out
    assert "GPU-days at 40 % of 989TFLOP/s" in lines
    assert "stages are not listed" in lines
    assert not out.exists()


def test_the_table_in_the_documents_is_right(root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "2-design.md").read_text(encoding="utf-8")
    for name in PRESETS:
        found = quote(load_recipe(root / "recipes" / "paper" / f"{name}.toml"), out=tmp_path).price
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `paper/{name}` |")]
        q4_0, flops = show_bytes(found.weight_bytes["q4_0"]), f"{found.flops:.2e}"
        cells = [
            show_count(found.num_params),
            q4_0,
            flops.replace("+", ""),
            f"{found.gpu_days:.0f}",
        ]
        assert [cell for cell in cells if f" {cell} " not in row] == []


@pytest.mark.parametrize(
    "left_open", [{"train.planned_tokens": None}, {"design.shape.tied": None},
                  {"compact.vocab_size": "auto"}],
)  # fmt: skip
def test_what_the_data_would_decide_is_not_guessed(
    left_open: dict[str, object], root: Path, tmp_path: Path
) -> None:
    path = root / "recipes" / "paper" / "1b-pro.toml"
    with pytest.raises(CorpusError, match="matches no file"):
        quote(load_recipe(path, changes=left_open), out=tmp_path)


def test_with_data_both_are_there(tiny_recipe: Path, tmp_path: Path) -> None:
    bare = load_recipe(tiny_recipe)
    planned = load_recipe(tiny_recipe, changes={"train.planned_tokens": PLANNED})
    assert plan(planned, out=tmp_path) == plan(bare, out=tmp_path)  # it changes no number
    both = quote(planned, out=tmp_path)
    assert both.estimate is not None
    assert len(both.estimate.steps) == 9
    assert both.as_dict()["price"]["tokens"] == PLANNED
    assert both.price.num_params == both.as_dict()["params"]
    held = quote(bare, out=tmp_path).price.tokens
    assert 0 < held == round(both.estimate.pass_tokens)


def _price(
    table: TrainTable | None = None, layers: int = 21, ffn: int = 4992, **rates: float
) -> Price:
    shape = Shape(family="llama", vocab_size=48_000, layers=layers, hidden=1792, heads=14,
                  kv_heads=14, head_dim=128, ffn=ffn, tied=False)  # fmt: skip
    return price(shape, table or TrainTable(seq_len=2048), tokens=PLANNED, **rates)
