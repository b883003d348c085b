"""What came out of compacting without a recipe, as flat keys and as lines."""

from dataclasses import dataclass
from typing import Any

from pocketlm.model.vocab_rows import VocabularyCut
from pocketlm.stages.compact import Compacted
from pocketlm.units import show_bytes, show_count


@dataclass(frozen=True, kw_only=True)
class CompactedFiles:
    """What a folder made here holds, and what it was made from."""

    compacted: Compacted
    parent_vocab_size: int
    lossless: str | None
    """Why the tokenizer loses text; None if it does not."""
    cut: VocabularyCut | None
    """What the model lost; None for a tokenizer alone."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know, a line each."""
        lossy = () if self.lossless is None else (f"not lossless: {self.lossless}",)
        failed = (f"{c.name}: {c.note}" for c in self.compacted.checks if not c.passed)
        return (*self.compacted.warnings, *lossy, *failed)

    def as_dict(self) -> dict[str, Any]:
        """Flat keys; lengths are of held-out text, `params` and `bytes` None without a model."""
        made, cut = self.compacted, self.cut
        low, high = made.coverage_interval or (None, None)
        return {
            "vocab_size": int(made.kept_V.size),
            "parent_vocab_size": self.parent_vocab_size,
            "reason": made.size_reason,
            "law_vocab_size": made.law_vocab_size,
            "dead_slots": made.dead_slots,
            "tokens_per_byte": made.tokens_per_byte,
            "parent_tokens_per_byte": made.parent_tokens_per_byte,
            "inflation_percent": 100 * made.inflation,
            "coverage": made.coverage,
            "coverage_low": low,
            "coverage_high": high,
            "lossless": self.lossless is None,
            "params": cut and cut.num_params_after,
            "parent_params": cut and cut.num_params_before,
            "bytes": cut and cut.num_bytes_after,
            "parent_bytes": cut and cut.num_bytes_before,
            "checks_passed": sum(check.passed for check in made.checks),
            "checks": len(made.checks),
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """The same for people."""
        made, cut = self.compacted, self.cut
        passed = sum(check.passed for check in made.checks)
        lines = [
            f"tokens      {self.parent_vocab_size:,} -> {made.kept_V.size:,} ({made.size_reason})",
            f"length      {made.parent_tokens_per_byte:.4f} -> {made.tokens_per_byte:.4f} tokens "
            f"per byte of held-out text ({made.inflation:+.1%})",
            f"coverage    {made.coverage:.2%} of the training text's tokens",
            f"dead slots  {made.dead_slots}",
        ]
        if cut is not None:
            lines += [
                f"parameters  {show_count(float(cut.num_params_before))} -> "
                f"{show_count(float(cut.num_params_after))}",
                f"weights     {show_bytes(cut.num_bytes_before)} -> "
                f"{show_bytes(cut.num_bytes_after)}",
            ]
        lines.append(f"checks      {passed} of {len(made.checks)} held")
        return [*lines, *(f"warning     {line}" for line in self.warnings)]
