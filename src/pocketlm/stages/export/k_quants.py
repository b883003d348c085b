"""K-quants: mixed widths that only llama.cpp's own `llama-quantize` writes, where it is on PATH."""

import shutil
import subprocess
from pathlib import Path

from pocketlm.errors import StageError, UserError

PROGRAM = "llama-quantize"
_LONGEST_S = 3600


def is_k_quant(name: str) -> bool:
    """Whether a format of FORMATS is one."""
    return "_k_" in name


def check_quantizer(name: str) -> str:
    """Path of the program; raises `UserError` with a remedy where it is missing."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise UserError(
            f"[export] formats: {name} needs llama.cpp's {PROGRAM} on PATH; put it there or choose "
            "gguf-q4_0"
        )
    return found


def requantise(source: Path, target: Path, kind: str) -> None:
    """Write `target` from a float32 file, on one thread; raises `StageError` where that fails."""
    command = [check_quantizer(f"gguf-{kind.lower()}"), str(source), str(target), kind, "1"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise StageError(f"export: {PROGRAM} took over {_LONGEST_S} s") from None
    if done.returncode != 0 or not target.is_file():
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise StageError(f"export: {PROGRAM} does not write {target.name}: {last}")
