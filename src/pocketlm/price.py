"""What a shape costs to keep, to run and to train, priced without building it.

    FLOPs = tokens x (3 F + (rounds - 1) (keep_fraction 3 F + F) + P)
    GPU-days = FLOPs / (MFU x peak FLOP/s) / 86,400

F: forward FLOPs per token (conventions of `pocketlm.model.cost`); the last F is the pass that
scores every block before a later round, left out where the resampler reads no losses or recorded
ones. P: the parent's passes forward, for `excess-loss` and `distil`. Probes are not in it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from pocketlm.errors import RecipeError
from pocketlm.model.cost import (
    count_params,
    decode_bytes,
    flops_per_token,
    kv_bytes_per_token,
    params_by_part,
    training_bytes,
    training_flops_per_token,
    vocab_share,
    weight_bytes,
)
from pocketlm.model.family import Part
from pocketlm.model.shape import Shape
from pocketlm.recipe import TrainTable
from pocketlm.stages.train.resample import parent_passes, scores_blocks
from pocketlm.stages.train.schedule import explain_rate
from pocketlm.units import show_bytes, show_count, show_seconds

MFU = 0.4
"""Share of the peak that training reaches: an assumption of ours, not a measurement."""
PEAK_FLOPS = 989e12
"""One H100 SXM, dense bf16 (NVIDIA's datasheet: 1,979 TFLOP/s with sparsity; half of that)."""
FORMATS = ("f32", "f16", "q8_0", "q4_0")
"""Weight formats on the list, of WEIGHT_FORMATS."""

_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Price:
    """The list for one shape; bytes and FLOPs as `pocketlm.model.cost` counts them."""

    shape: Shape
    params_by_part: dict[Part, int]
    weight_bytes: dict[str, int]
    """Format -> bytes of all weights."""
    decode_bytes: dict[str, int]
    """Format -> peak bytes of generating at a context of `seq_len`."""
    kv_bytes: int
    """16-bit keys and values of `seq_len` positions."""
    training_state_bytes: int
    """Weights, gradients and two moments, float32."""
    training_block_bytes: int
    """What each block of `seq_len` tokens in a step adds."""
    forward_flops_per_token: float
    training_flops_per_token: float
    seq_len: int
    tokens: int
    """Tokens of the first pass."""
    passes: float
    """All rounds and their scoring, in passes of training over `tokens`."""
    parent_flops: float
    """What the parent reads for it."""
    rate: str
    """The peak learning rate, where it comes from, and what the other rule says."""
    mfu: float
    peak_flops: float

    @property
    def num_params(self) -> int:
        """Stored parameters; a tied table counts once."""
        return count_params(self.shape)

    @property
    def flops(self) -> float:
        """FLOPs of all rounds over the tokens, scoring and the parent included."""
        return self.passes * self.tokens * self.training_flops_per_token + self.parent_flops

    @property
    def gpu_days(self) -> float:
        """Days of one accelerator at the stated share of the stated peak."""
        return self.flops / (self.mfu * self.peak_flops) / _SECONDS_PER_DAY

    def _time(self) -> str:
        if self.gpu_days < 0.1:
            return f"{show_seconds(self.gpu_days * _SECONDS_PER_DAY)} of one GPU"
        return f"{self.gpu_days:,.3g} GPU-days"

    def _of_parent(self) -> str:
        share = self.parent_flops / self.flops if self.flops else 0.0
        return f", {100 * share:.0f} % of it the parent's" if share else ""

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return asdict(self) | {
            "params": self.num_params,
            "flops": self.flops,
            "gpu_days": self.gpu_days,
        }

    def lines(self) -> list[str]:
        """The list as a person reads it."""
        parts = ", ".join(f"{p} {show_count(n)}" for p, n in self.params_by_part.items())
        share = f"vocabulary {100 * vocab_share(self.shape):.1f} %"
        per_token = [self.forward_flops_per_token, self.training_flops_per_token]
        forward, training = (f"{show_count(flops)}FLOP" for flops in per_token)
        rows = {
            "shape": f"{self.shape.family}: {self.shape}",
            "parameters": f"{show_count(self.num_params)} ({parts}; {share})",
            "weights": _formats(self.weight_bytes),
            f"decode at {self.seq_len:,}": f"{_formats(self.decode_bytes)}, "
            f"of that {show_bytes(self.kv_bytes)} keys and values",
            "training memory": f"{show_bytes(self.training_state_bytes)} of float32 state, "
            f"{show_bytes(self.training_block_bytes)} more for each block of {self.seq_len:,}",
            "a token": f"{forward} forward, {training} training",
            "training": f"{show_count(float(self.tokens))} tokens x {self.passes:.3g} passes: "
            f"{self.flops:.3g} FLOP{self._of_parent()}",
            "learning rate": self.rate,
            "time": f"{self._time()} at {100 * self.mfu:.3g} % of "
            f"{show_count(self.peak_flops)}FLOP/s",
        }
        convention = (
            "A multiply-add is 2 FLOPs; attention counts only what is not masked; training is 3 "
            "forward;\na pass that only scores is a third of one that trains."
        )
        return [*(f"{name:<16} {text}" for name, text in rows.items()), *convention.split("\n")]


def price(
    shape: Shape,
    table: TrainTable,
    *,
    tokens: int,
    parent: Shape | None = None,
    mfu: float = MFU,
    peak_flops: float = PEAK_FLOPS,
) -> Price:
    """Price `shape` trained as `table` says, with `tokens` in the first pass.

    `parent` is priced where it reads along, with the child's vocabulary. `mfu` is a share of
    `peak_flops`, FLOP/s. Raises `RecipeError` for shares and rates that no machine has.
    """
    if not 0 < mfu <= 1:
        raise RecipeError(f"mfu = {mfu:g}: a share of the peak, above 0 and at most 1")
    if not 0 < peak_flops < float("inf"):
        raise RecipeError(f"peak_flops = {peak_flops:g}: FLOP/s of one accelerator, such as 989e12")
    seq_len, state = table.seq_len, training_bytes(shape, 0)
    trained = round(tokens * (min(1, table.rounds) + _later(table) * table.keep_fraction))
    return Price(
        shape=shape,
        params_by_part=params_by_part(shape),
        weight_bytes={name: weight_bytes(shape, name) for name in FORMATS},
        decode_bytes={name: decode_bytes(shape, name, seq_len) for name in FORMATS},
        kv_bytes=seq_len * kv_bytes_per_token(shape),
        training_state_bytes=state,
        training_block_bytes=training_bytes(shape, seq_len) - state,
        forward_flops_per_token=flops_per_token(shape, (seq_len + 1) / 2),
        training_flops_per_token=training_flops_per_token(shape, seq_len),
        seq_len=seq_len,
        tokens=tokens,
        passes=_passes(table),
        parent_flops=_parent_flops(parent, shape, table) * tokens,
        rate=explain_rate(table, count_params(shape), trained),
        mfu=mfu,
        peak_flops=peak_flops,
    )


def _passes(table: TrainTable) -> float:
    """All rounds in passes of training; scoring is forward only, a third."""
    scoring = 1 / 3 if scores_blocks(table) else 0.0
    return min(1, table.rounds) + _later(table) * (table.keep_fraction + scoring)


def _parent_flops(parent: Shape | None, child: Shape, table: TrainTable) -> float:
    """FLOPs of the parent for each token of the first pass."""
    passes = parent_passes(table) + (table.distils and table.distil_from == "stored")
    if parent is None or not passes:
        return 0.0
    narrow = replace(parent, vocab_size=child.vocab_size)
    return passes * flops_per_token(narrow, (table.seq_len + 1) / 2)


def _later(table: TrainTable) -> int:
    """Rounds after the first."""
    return max(0, table.rounds - 1)


def _formats(sizes: dict[str, int]) -> str:
    return ", ".join(f"{show_bytes(size)} {name}" for name, size in sizes.items())
