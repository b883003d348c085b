"""Units, and how numbers are shown: bytes, parameters, seconds, bits per byte."""

import math

MB, GB = 10**6, 10**9
MIB, GIB = 2**20, 2**30
BITS_PER_NAT = 1.0 / math.log(2.0)

_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def show_count(count: float) -> str:
    """`1234567` as `1.23M`: three significant digits, decimal steps."""
    for step, letter in _STEPS:
        if abs(count) >= 0.9995 * step:
            return f"{count / step:.3g}{letter}"
    return f"{count:.3g}" if isinstance(count, float) else str(count)


def show_bytes(num_bytes: float) -> str:
    """`7_800_000` as `7.8 MB`: decimal steps, as file systems of phones count them."""
    for step, letter in _STEPS:
        if abs(num_bytes) >= 0.9995 * step:
            return f"{num_bytes / step:.3g} {letter}B"
    return f"{num_bytes:.0f} B"


def show_seconds(seconds: float) -> str:
    """`75.2` as `1m 15s`, `4000` as `1h 07m`; under ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
