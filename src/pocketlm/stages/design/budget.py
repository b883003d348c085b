"""What the device grants, as limits that a shape keeps or breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pocketlm.errors import BudgetError, RecipeError
from pocketlm.model.cost import WEIGHT_FORMATS, check_weight_format, count_params, decode_bytes
from pocketlm.model.shape import Shape
from pocketlm.stages.design.latency import SpeedModel
from pocketlm.units import show_bytes, show_count


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the device grants, in any combination; at least one limit.

    The two limits of time need `speed`, which says how fast a shape is in a named runtime.
    """

    max_params: int | None = None
    """Parameters at most, a tied table counted once."""
    max_bytes: int | None = None
    """Memory at most while generating: weights in `weight_format`, and the cache of `context`."""
    weight_format: str = "q8_0"
    """A name of WEIGHT_FORMATS."""
    context: int = 1024
    """Positions the cache holds, a new token looks back at, and the first token waits for."""
    min_tokens_per_s: float | None = None
    """New tokens a second at least, one sequence, after `context` others."""
    max_first_token_ms: float | None = None
    """Milliseconds at most from a prompt of `context` tokens to the first new one."""
    speed: SpeedModel | None = None
    """How fast shapes are."""

    @property
    def limits_memory_or_time(self) -> bool:
        """Whether anything but the number of parameters is limited."""
        given = (self.max_bytes, self.min_tokens_per_s, self.max_first_token_ms)
        return any(limit is not None for limit in given)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One quantity that may not exceed a number. It grows with layers and with FFN in straight
    lines, k0 + layers (k1 + k2 ffn), which is what lets the space be solved and not searched."""

    key: str
    """Recipe key, and what the user gave for it."""
    most: float
    cost: Callable[[Shape], float]
    show: Callable[[float], str]
    way_out: str
    """What the user can do about it."""
    straight: bool = True
    """Whether the lines are exact; formats in blocks bend them where a width is no multiple."""

    def keeps(self, shape: Shape) -> bool:
        """Whether `shape` is inside."""
        return self.cost(shape) <= self.most


def limits(budget: Budget) -> tuple[Limit, ...]:
    """The limits a budget sets; raises `RecipeError` where it sets none or cannot be checked."""
    found: list[Limit] = []
    if budget.max_params is not None:
        most = budget.max_params
        found.append(
            Limit(key=f"max_params = {show_count(most)}", most=most, cost=count_params,
                  show=lambda number: show_count(round(number)), way_out="raise max_params")
        )  # fmt: skip
    if budget.max_bytes is not None:
        found.append(_memory(budget, budget.max_bytes))
    found += _times(budget)
    if not found:
        raise RecipeError(
            "[design] sets no limit; give max_params, max_bytes, min_tokens_per_s or "
            "max_first_token_ms"
        )
    return tuple(found)


def straight_line(cost: Callable[[Shape], float], body: Shape) -> tuple[float, float, float]:
    """k0, k1, k2 of cost = k0 + layers (k1 + k2 ffn) on one body, through three shapes of it."""
    narrow = cost(replace(body, layers=1, ffn=32))
    wide = cost(replace(body, layers=1, ffn=64))
    deep = cost(replace(body, layers=2, ffn=32))
    k2 = (wide - narrow) / 32
    return 2 * narrow - deep, deep - narrow - 32 * k2, k2


def explain(smallest: Shape, broken: Limit) -> BudgetError:
    """Why not even the smallest shape fits, and the vocabulary at which it would."""
    total, body = broken.cost(smallest), broken.cost(smallest.with_vocab(0))
    per_token = (total - body) / smallest.vocab_size
    fitting = int((broken.most - body) / per_token) if per_token > 0 else 0
    way_out = f"compact to at most {fitting:,} tokens or " if fitting > 0 else ""
    return BudgetError(
        f"no shape fits {broken.key}: the smallest, {smallest.layers} x {smallest.hidden}, takes "
        f"{broken.show(total)}, of which the vocabulary alone {broken.show(total - body)}; "
        f"{way_out}{broken.way_out}"
    )


def _memory(budget: Budget, most: int) -> Limit:
    check_weight_format(budget.weight_format)
    kept = f"{budget.weight_format}, {budget.context:,} positions"
    return Limit(
        key=f"max_bytes = {show_bytes(most)} ({kept})",
        most=most,
        cost=lambda shape: decode_bytes(shape, budget.weight_format, budget.context),
        show=lambda number: show_bytes(round(number)),
        way_out="raise max_bytes, lower context or take a smaller weight_format",
        straight=WEIGHT_FORMATS[budget.weight_format].block == 1,
    )


def _times(budget: Budget) -> list[Limit]:
    least, longest, speed = budget.min_tokens_per_s, budget.max_first_token_ms, budget.speed
    if least is None and longest is None:
        return []
    if speed is None:
        raise RecipeError("[design] min_tokens_per_s and max_first_token_ms need a device")
    found = []
    if least is not None:
        found.append(
            Limit(
                key=f"min_tokens_per_s = {least:g} ({speed.runtime})",
                most=1000 / least,
                cost=lambda shape: 1000 * speed.token_seconds(shape, budget.context),
                show=lambda ms: f"{ms:.3g} ms a token",
                way_out="lower min_tokens_per_s",
                straight=WEIGHT_FORMATS[speed.weight_format].block == 1,
            )
        )
    if longest is not None:
        found.append(
            Limit(
                key=f"max_first_token_ms = {longest:g} ({speed.runtime})",
                most=longest,
                cost=lambda shape: 1000 * speed.prompt_seconds(shape, budget.context),
                show=lambda ms: f"{ms:.3g} ms to the first token",
                way_out="raise max_first_token_ms",
            )
        )
    return found
