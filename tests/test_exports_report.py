"""The delivered files on a run's page."""

from pocketlm.run_report.exports import ExportedFile, files_section, frontier


def _file(name: str, num_bytes: int, bits: float, speed: float) -> ExportedFile:
    quality = {"bits_per_byte": bits, "decode_tokens_per_s": speed, "peak_bytes": 3_000_000.0}
    return ExportedFile(name, num_bytes, "64 greedy tokens equal", quality)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    assert frontier([(4, 1.0), (2, 1.1), (3, 1.2), (1, 1.5), (5, 1.0)]) == [3, 1, 0]
    assert frontier([]) == []


def test_files_are_shown_with_what_they_cost_and_two_plots() -> None:
    files = [_file("gguf-f16", 2_000_000, 0.9, 900.0), _file("gguf-q4_0", 600_000, 0.91, 2000.0)]
    text = "".join(files_section(files))
    assert text.count("<svg") == 2
    for shown in ("bits per byte", "0.9100", "decode, tokens/s", "2k", "64 greedy tokens equal"):
        assert shown in text
    assert "load, s" not in text  # nothing was timed there


def test_files_of_older_runs_have_no_scores_and_no_plot() -> None:
    text = "".join(files_section([ExportedFile("huggingface", 10, "bit-equal")]))
    assert "bit-equal" in text
    assert "<svg" not in text
    assert files_section([]) == []
