"""Rankers put first what they say they do, and say why the others lost."""

from collections.abc import Sequence

import numpy as np
import pytest

from pocketlm.errors import RecipeError
from pocketlm.model.shape import Shape
from pocketlm.stages.design import RANKERS, Budget, Means, design, rank_shapes
from pocketlm.stages.design.latency import SpeedModel, fit_speed, relative_errors
from pocketlm.stages.design.successive_halving import noise_of, promoted, successive_halving
from pocketlm.stages.design.timed import TRANSFORMERS, Runtime, time_shapes

SPEED = SpeedModel(runtime="transformers", weight_format="f32", token_s=1e-4, token_layer_s=1e-4,
                   output_s=2e-7, byte_s=1e-9, prompt_s=1e-4, prompt_layer_s=2e-4,
                   flop_s=1e-11)  # fmt: skip


def plain(layers: int, hidden: int) -> Shape:
    return Shape(family="llama", vocab_size=500, layers=layers, hidden=hidden, heads=hidden // 32,
                 kv_heads=hidden // 32, head_dim=32, ffn=2 * hidden, tied=True)  # fmt: skip


def exact_runtime(slower: Sequence[float] = (1,) * 6) -> Runtime:
    """One that takes as long as SPEED says, in each round some times longer."""

    def rounds(
        shapes: Sequence[Shape], prompts_ST: Sequence[list[int]], new_tokens: int, count: int
    ) -> np.ndarray:
        assert count == len(slower)
        seconds_S2 = [
            [SPEED.prompt_seconds(shape, len(prompt_T)),
             (new_tokens - 1) * SPEED.token_seconds(shape, len(prompt_T) + new_tokens // 2)]
            for shape, prompt_T in zip(shapes, prompts_ST, strict=True)
        ]  # fmt: skip
        return np.multiply.outer(slower, seconds_S2)

    return Runtime(name="exact", weight_format="f32", time_rounds=rounds)


def ranked_by(rank: str, **means: object) -> list:
    budget = Budget(max_params=1_000_000, speed=SPEED)
    given = Means(budget=budget, rng=np.random.default_rng(0), **means)  # type: ignore[arg-type]
    return list(
        rank_shapes(budget, vocab_size=500, family="llama", parent_shape=None, rank=rank,
                    means=given).short_list
    )  # fmt: skip


def test_roofline_takes_the_fastest_of_those_that_spend_the_budget() -> None:
    found = ranked_by("roofline")
    assert [each.value for each in found] == sorted((e.value for e in found), reverse=True)
    assert found[0].shape.layers < ranked_by("deep-first")[0].shape.layers
    assert all(each.params > 850_000 for each in found)


def test_everyone_but_the_first_is_told_why() -> None:
    for rank in ("deep-first", "wide-first", "roofline"):
        first, *others = ranked_by(rank)
        assert first.why == ""
        assert all(each.why for each in others)


def test_the_law_prefers_size() -> None:
    found = ranked_by("scaling-law", predict_loss=lambda params: 1 + 100 / params**0.3)
    assert found[0].params == max(each.params for each in found)


@pytest.mark.parametrize(("rank", "message"), [("proxy", "corpus"), ("scaling-law", "law")])
def test_rankers_say_what_they_lack(rank: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        design(Budget(max_params=1_000_000), vocab_size=500, family="llama", rank=rank)
    with pytest.raises(RecipeError, match="needs a device"):
        design(Budget(max_params=1_000_000), vocab_size=500, family="llama", rank="roofline")
    assert rank in RANKERS


def test_halving_finds_the_best_and_trains_fewer_each_time() -> None:
    shapes = [plain(layers, 64) for layers in range(1, 9)]
    calls: list[tuple[int, float]] = []

    def train(shape: Shape, share: float, seed: int) -> float:
        calls.append((shape.layers, share))
        return abs(shape.layers - 5) / 10 + 1e-4 * seed

    order = successive_halving(shapes, train)
    assert order[0].shape.layers == 5
    assert order[0].why == ""
    assert sorted(each.shape.layers for each in order) == list(range(1, 9))
    trained = [sum(share == rung for _, share in calls) for rung in (0.25, 0.5, 1.0)]
    assert trained[0] == 16
    assert trained == sorted(trained, reverse=True)
    assert trained[2] < trained[0]


def test_who_is_within_the_noise_goes_on() -> None:
    means_S = np.array([1.0, 1.1, 1.12, 1.5])
    assert promoted(means_S, 0.0) == 2
    assert promoted(means_S, 0.05) == 3
    assert noise_of(np.array([[1.0, 1.0], [2.0, 2.0]])) == 0
    assert noise_of(np.array([[1.0, 1.2], [2.0, 2.2]])) == pytest.approx(2 * np.sqrt(0.02))


def test_lines_are_found_again_from_their_own_timings() -> None:
    shapes = [plain(*size) for size in ((2, 64), (9, 64), (3, 256), (12, 192), (6, 384))]
    runtime = exact_runtime()
    timings = time_shapes(shapes, runtime, rng=np.random.default_rng(0))
    model = fit_speed(timings, runtime)
    assert (model.runtime, model.weight_format) == ("exact", "f32")
    for name in (
        "token_s",
        "token_layer_s",
        "output_s",
        "byte_s",
        "prompt_s",
        "prompt_layer_s",
        "flop_s",
    ):
        assert getattr(model, name) == pytest.approx(getattr(SPEED, name), rel=1e-6)
    assert max(map(abs, relative_errors(model, timings))) < 1e-9


def test_timings_are_of_the_shapes_asked_for() -> None:
    shapes = [plain(1, 32), plain(8, 32)]
    shallow, deep = time_shapes(
        shapes, TRANSFORMERS, prompt_tokens=4, new_tokens=4, repeats=3, rng=np.random.default_rng(0)
    )
    assert (shallow.shape, deep.shape) == tuple(shapes)
    assert deep.token_s.min > shallow.token_s.min > 0
    for found in (shallow.token_s, shallow.prompt_s, deep.token_s, deep.prompt_s):
        assert found.min <= found.median <= found.max


def test_the_least_is_fitted_and_the_median_told() -> None:
    """Rounds 1, 2, 3, 10 and 1 times as long as they could be: the warm-up of 100 is not among
    them."""
    shape = plain(4, 64)
    (timing,) = time_shapes([shape], exact_runtime([100, 1, 2, 3, 10, 1]),
                            rng=np.random.default_rng(0))  # fmt: skip
    told = timing.as_dict()
    assert told["tokens_per_s"] == pytest.approx(SPEED.tokens_per_s(shape, 80))
    assert told["tokens_per_s_median"] == pytest.approx(SPEED.tokens_per_s(shape, 80) / 2)
    assert told["first_token_ms"] == pytest.approx(1000 * SPEED.prompt_seconds(shape, 64))
    assert told["first_token_ms_median"] == pytest.approx(2000 * SPEED.prompt_seconds(shape, 64))
    assert told["spread"] == pytest.approx(10) == pytest.approx(told["first_token_spread"])
    assert relative_errors(SPEED, [timing]) == pytest.approx([0], abs=1e-9)


def test_measured_orders_by_what_it_timed_in_the_runtime_it_is_given() -> None:
    found = ranked_by("measured", runtime=exact_runtime())
    values = [SPEED.tokens_per_s(each.shape, 80) for each in found]
    assert [each.value for each in found] == pytest.approx(sorted(values, reverse=True))
    assert len({each.shape.layers for each in found}) == len(values) > 1
    for each in found:
        assert each.timing is not None
        assert each.value == 1 / each.timing.token_s.min
    assert [each.why == "" for each in found] == [True] + [False] * (len(values) - 1)


def test_measured_times_in_transformers_unless_told() -> None:
    budget = Budget(max_params=60_000)
    assert Means(budget=budget, rng=np.random.default_rng(0)).runtime is TRANSFORMERS
