"""The step that decides the child's shape, and what its size says about a vocabulary."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pocketlm.artifact import Score
from pocketlm.device import load_device
from pocketlm.errors import BudgetError, RecipeError
from pocketlm.model.checkpoint import open_checkpoint
from pocketlm.model.cost import (
    count_params,
    decode_bytes,
    flops_per_token,
    kv_bytes_per_token,
    params_by_part,
    weight_bytes,
)
from pocketlm.model.scaling import LossLaw
from pocketlm.model.shape import Shape, check_shape
from pocketlm.recipe import DesignTable, Recipe
from pocketlm.stages.compact.size import Body, BodyOf
from pocketlm.stages.design import (
    Budget,
    Designed,
    Means,
    Ranked,
    SpeedModel,
    design,
    fit_here,
    rank_shapes,
    roofline,
)
from pocketlm.steps.materials import Materials, Scores, read_json, write_json
from pocketlm.steps.proxy import proxy_training
from pocketlm.steps.runtimes import timed_runtime


def design_step(run: Materials, files: Path, resume: Path) -> Scores:
    """The explicit shape, or the best one in the budget; by default the parent's own."""
    parent = None if run.inputs.parent is None else open_checkpoint(run.inputs.parent).shape
    vocab_size = int(run.made["compact"].scores["vocab_size"].value)
    table, speed = run.recipe.design, None
    if table.has_budget:
        speed = _speed(run)
        budget = _budget(table, speed)
        designed = rank_shapes(
            budget,
            vocab_size=vocab_size,
            family=parent.family if parent else run.recipe.family,
            parent_shape=parent,
            tied=table.tied,
            rank=table.rank,
            means=Means(
                budget=budget,
                rng=run.rng("design"),
                runtime=timed_runtime(table.runtime, table.weight_format),
                train=proxy_training(run),
                proxy_sampler=table.proxy_sampler,
                predict_loss=_law(run),
            ),
        )
        shape = designed.shape
        write_json(files / "ranking.json", _ranking(designed, run.recipe, speed))
        write_json(files / "speed.json", asdict(speed))
    else:
        shape = decide_shape(run.recipe, vocab_size, parent)
    write_json(files / "shape.json", asdict(shape))
    write_json(files / "parent_shape.json", asdict(parent) if parent else None)
    return _shape_scores(shape, table) | _speed_scores(shape, table, speed)


def decide_shape(recipe: Recipe, vocab_size: int, parent: Shape | None) -> Shape:
    """The recipe's explicit shape, or about the one its budget will give; else the parent's own.

    Nothing is trained or timed: rankers that do are stood in for by `deep-first`, and a fitted
    runtime by the roofline. Raises `BudgetError` and `RecipeError`.
    """
    table, family = recipe.design, parent.family if parent else recipe.family
    if table.has_budget:
        timed = table.min_tokens_per_s is not None or table.max_first_token_ms is not None
        device = load_device(recipe.device) if timed or table.rank == "roofline" else None
        speed = None if device is None else roofline(device, table.weight_format)
        slow = table.rank in ("measured", "proxy", "scaling-law")
        return design(
            _budget(table, speed),
            vocab_size=vocab_size,
            family=family,
            parent_shape=parent,
            tied=table.tied,
            rank="deep-first" if slow else table.rank,
        )
    if table.shape is None:
        assert parent is not None  # the recipe's own check
        return parent.with_vocab(vocab_size)
    given = table.shape
    head_dim = given.head_dim or (parent.head_dim if parent else given.hidden // given.heads)
    tied = given.tied if given.tied is not None else (parent.tied if parent else True)
    numbers = given.model_dump() | {"head_dim": head_dim, "tied": tied}
    if parent:
        numbers |= {
            "series": parent.series,
            "shortcut": parent.shortcut,
            "flipped": parent.flipped,
        }
    shape = Shape(family=family, vocab_size=vocab_size, **numbers)
    check_shape(shape, parent)
    return shape


def _budget(table: DesignTable, speed: SpeedModel | None) -> Budget:
    timed = table.min_tokens_per_s is not None or table.max_first_token_ms is not None
    return Budget(
        max_params=table.max_params,
        max_bytes=table.max_bytes,
        weight_format=table.weight_format,
        context=table.context,
        min_tokens_per_s=table.min_tokens_per_s,
        max_first_token_ms=table.max_first_token_ms,
        speed=speed if timed or table.rank == "roofline" else None,
    )


def _speed(run: Materials) -> SpeedModel:
    """The runtime's lines; what is no roofline is timed here, the device (`check_choices`)."""
    table = run.recipe.design
    if table.runtime == "roofline":
        return roofline(load_device(run.recipe.device), table.weight_format)
    return fit_here(run.rng("speed"), timed_runtime(table.runtime, table.weight_format))[0]


def _law(run: Materials) -> Callable[[int], float] | None:
    """The fitted law at as many tokens as the child will be trained on."""
    if run.recipe.design.law is None:
        return None
    path = Path(run.recipe.design.law)
    try:
        law = LossLaw.from_dict(read_json(path))
    except (OSError, ValueError, TypeError, RecipeError) as error:
        raise RecipeError(f"[design] law = {path}: not a fitted law ({error})") from None
    train, scores = run.recipe.train, run.made["compact"].scores
    one_pass = run.made["counts"].scores["bytes"].value * scores["tokens_per_byte"].value
    passes = min(1, train.rounds) + max(0, train.rounds - 1) * train.keep_fraction
    return lambda params: float(law.predict(params, one_pass * passes))


def _ranking(designed: Designed, recipe: Recipe, speed: SpeedModel) -> dict[str, Any]:
    """What the report and the screen show of the ranking."""
    table = recipe.design
    bound = f"at most, by the roofline of {recipe.device}"
    where = bound if speed.runtime == "roofline" else speed.runtime

    def line(each: Ranked) -> dict[str, Any]:
        return {
            "shape": str(each.shape),
            "layers": each.shape.layers,
            "params": each.params,
            "num_bytes": decode_bytes(each.shape, table.weight_format, table.context),
            "tokens_per_s": speed.tokens_per_s(each.shape, table.context),
            "value": each.value,
            "unit": each.unit,
            "why": each.why,
            "timed": None if each.timing is None else each.timing.as_dict(),
        }

    return {
        "rank": table.rank,
        "runtime": f"{where}, {speed.weight_format}",
        "num_legal": designed.num_legal,
        "short_list": [line(each) for each in designed.short_list],
        "frontier": [line(each) for each in designed.frontier],
        "excluded": list(designed.excluded),
    }


def _shape_scores(shape: Shape, table: DesignTable) -> Scores:
    weights = weight_bytes(shape, table.weight_format)
    memory = decode_bytes(shape, table.weight_format, table.context)
    return {
        "params": Score(count_params(shape), "parameters"),
        "flops_per_token": Score(flops_per_token(shape, 256), "FLOP at context 256"),
        "kv_bytes_per_token": Score(kv_bytes_per_token(shape), "bytes at 16 bit"),
        "weight_bytes": Score(weights, f"bytes in {table.weight_format}"),
        "decode_bytes": Score(memory, f"bytes at {table.context} positions"),
        **{f"{p}.params": Score(n, "parameters") for p, n in params_by_part(shape).items()},
    }


def _speed_scores(shape: Shape, table: DesignTable, speed: SpeedModel | None) -> Scores:
    if speed is None:
        return {}
    unit = f"tokens/s, {speed.runtime}, {speed.weight_format}"
    rate = Score(speed.tokens_per_s(shape, table.context), unit)
    first = Score(1000 * speed.prompt_seconds(shape, table.context), f"ms, {speed.runtime}")
    return {"predicted_tokens_per_s": rate, "predicted_first_token_ms": first}


def body_of(recipe: Recipe, parent: Shape | None) -> BodyOf:
    """The body that a vocabulary of some size would sit on: what `design` will decide.

    A vocabulary that alone breaks the budget has a body of nothing.
    """

    def body(vocab_size: int) -> Body:
        try:
            shape = decide_shape(recipe, vocab_size, parent)
        except BudgetError:
            return Body(params=0, hidden=1, matrices=1)
        matrices = 1 if shape.tied else 2
        params = count_params(shape) - matrices * vocab_size * shape.hidden
        return Body(params=params, hidden=shape.hidden, matrices=matrices)

    return body
