"""Speed as scores: the median of each quantity, the spread beside it."""

from collections.abc import Mapping

from pocketlm.model.timing import Speed, Spread

UNITS = {
    "prefill_tokens_per_s": "tokens/s",
    "decode_tokens_per_s": "tokens/s",
    "first_token_ms": "ms",
}
PEAK_UNIT = "bytes, weights included"


def spreads(speed: Speed) -> Mapping[str, Spread]:
    """`prefill_tokens_per_s`, `decode_tokens_per_s` and `first_token_ms`, by name."""
    return {name: getattr(speed, name) for name in UNITS}
