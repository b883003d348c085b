"""How numbers are kept: the formats, their errors, and which parts stay wide."""

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.stages.export.gguf import stored_tensors, write_gguf
from pocketlm.stages.export.quantise import (
    WIDTH,
    choice_of,
    fit_blocks,
    quantised,
    rounding,
)
from pocketlm.stages.export.verify import check_tensors, read_back

gguf = pytest.importorskip("gguf")


def _values() -> np.ndarray:
    """Rows of every kind: usual, none, tiny, all alike, one far out, heavy tails."""
    rng = np.random.default_rng(0)
    rows = (0.05 * rng.standard_normal((40, 96))).astype(np.float32)
    rows[3], rows[5], rows[6] = 0, rows[5] * 1e-9, 1
    rows[7, 50] = -9
    rows[8:20] = rng.standard_t(2, (12, 96))
    return rows


def _back(values: np.ndarray, weights: str) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[weights]
    return gguf.dequantize(quantised(values, weights), kind).reshape(values.shape)


@pytest.mark.parametrize("weights", WIDTH)
def test_every_format_errs_no_more_than_it_says(weights) -> None:
    values = _values()
    bound = rounding(values, weights)
    assert (np.abs(_back(values, weights) - values) <= bound).all()
    if weights != "F32":
        assert (bound <= np.abs(values).max(axis=1, keepdims=True) * 0.21 + 2e-6).all()


@pytest.mark.parametrize(("weights", "lowest"), [("Q5_0", -16), ("Q4_0", -8)])
def test_blocks_are_laid_out_as_ggml_reads_them(weights, lowest) -> None:
    values = _values()
    scales_N1, codes_N32 = fit_blocks(values.reshape(-1, 32), lowest)
    np.testing.assert_array_equal(
        _back(values, weights), (scales_N1 * codes_N32).reshape(values.shape)
    )
    assert codes_N32.min() >= lowest
    assert codes_N32.max() < -lowest


@pytest.mark.parametrize("weights", ["Q5_0", "Q4_0"])
def test_least_squares_loses_less_than_the_largest_number_rule(weights) -> None:
    values = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[weights]
    plain = gguf.dequantize(gguf.quantize(values, kind), kind)
    own, theirs = (((x - values) ** 2).mean() for x in (_back(values, weights), plain))
    assert own < 0.95 * theirs


def test_parts_stay_wider_where_the_recipe_says_so(child, tokenizer, tmp_path) -> None:
    choice = choice_of(("ffn",), "f16")
    kinds = {t.name: t.weights for t in stored_tensors(child, "Q4_0", choice)}
    assert kinds["token_embd.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.1.attn_q.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"
    path = tmp_path / "mixed.gguf"
    write_gguf(child, tokenizer, path, weights="Q4_0", lineage={}, choice=choice)
    _, check = check_tensors(path, child, "Q4_0", choice)
    assert "(6 matrices kept Q8_0)" in check.note
    back = read_back(path, child, "Q4_0", choice)
    assert back.tensors["model.embed_tokens.weight"].equal(
        child.tensors["model.embed_tokens.weight"].half().float()
    )


def test_a_choice_never_narrows_a_file(child) -> None:
    kinds = {t.weights for t in stored_tensors(child, "F16", choice_of(("ffn",), "q4_0"))}
    assert kinds == {"F16", "F32"}


def test_an_unknown_width_is_named() -> None:
    with pytest.raises(RecipeError, match=r"embedding_weights = 'q9_0'.*did you mean 'q8_0'"):
        choice_of((), "q9_0")
