"""What the machine computes with, read off without torch."""

from pathlib import Path

import pytest
import torch

from pocketlm.hardware import has_bfloat16_cpu, has_cuda, resolve_hardware


@pytest.mark.parametrize(
    ("flags", "native"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2 fma", False)]
)
def test_bfloat16_is_read_from_the_flags(tmp_path: Path, flags: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t: sse {flags} vnni\n")
    assert has_bfloat16_cpu(tmp_path / "cpuinfo") is native
    assert not has_bfloat16_cpu(tmp_path / "none")


def test_the_guess_agrees_with_torch() -> None:
    assert has_cuda() == torch.cuda.is_available()


def test_a_given_dtype_is_taken() -> None:
    assert resolve_hardware("float32").dtype == "float32"
    assert resolve_hardware().dtype in ("float32", "bfloat16")
