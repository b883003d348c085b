"""Benchmarks out of a folder: which files are taken, what is an error, what doctor says."""

import gzip
import json
from pathlib import Path

import pytest

from pocketlm.cli import run
from pocketlm.errors import CorpusError
from pocketlm.stages.evaluate.examine import examine_benchmarks
from pocketlm.stages.evaluate.find import find_task_files, read_benchmark
from pocketlm.stages.evaluate.tasks import TASKS

PIQA = [
    {"goal": "Keep tea warm", "sol1": "use a lid", "sol2": "use a fan", "label": 0},
    {"goal": "Dry a cup", "sol1": "use water", "sol2": "use a towel", "label": 1},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_the_first_name_that_is_there_is_read(tmp_path: Path) -> None:
    write(tmp_path / "piqa.jsonl", PIQA[:1])
    assert len(read_benchmark(tmp_path, TASKS["piqa"]).questions) == 1
    first = write(tmp_path / "piqa.val.jsonl.gz", PIQA)
    assert find_task_files(tmp_path, TASKS["piqa"]).questions == (first,)
    found = read_benchmark(tmp_path, TASKS["piqa"])
    assert [(q.id, q.gold) for q in found.questions] == [("0", 0), ("1", 1)]
    assert list(found.sha256) == ["piqa.val.jsonl.gz"]


def test_missing_and_doubled_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"mmlu: .*none of mmlu\.jsonl \(or .*mmlu/test/\*\.csv"):
        find_task_files(tmp_path, TASKS["mmlu"])
    write(tmp_path / "piqa.jsonl", PIQA)
    write(tmp_path / "piqa.jsonl.gz", PIQA)
    with pytest.raises(CorpusError, match=r"both piqa\.jsonl and piqa\.jsonl\.gz; keep one"):
        find_task_files(tmp_path, TASKS["piqa"])
    with pytest.raises(CorpusError, match="no such folder"):
        find_task_files(tmp_path / "none", TASKS["piqa"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": 2}, r"row 2: label 2; accepted: 0, 1"),
        ({"goal": " "}, r"row 2: goal is ' '; a text that is not blank is needed"),
        ({"sol1": None}, r"row 2: sol1 is None"),
        ({"goal": "\ud83d"}, r"row 2: goal holds half a character"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict, says: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in (PIQA[0], PIQA[1] | changes))
    (tmp_path / "piqa.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=says):
        read_benchmark(tmp_path, TASKS["piqa"])


def test_a_missing_column_names_what_the_file_has(tmp_path: Path) -> None:
    write(tmp_path / "piqa.jsonl", [{"goal": "x", "one": "y", "label": 0}])
    with pytest.raises(CorpusError, match=r"row 1: no column 'sol1'; it has goal, one, label"):
        read_benchmark(tmp_path, TASKS["piqa"])


def test_one_id_twice_is_an_error(tmp_path: Path) -> None:
    row = {"idx": 7, "sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment"}
    write(tmp_path / "axb.jsonl", [row, row])
    with pytest.raises(CorpusError, match="1 ids stand twice: '7'"):
        read_benchmark(tmp_path, TASKS["axb"])


def test_a_file_of_another_split_has_no_question(tmp_path: Path) -> None:
    row = {"split": "val", "subject": "x", "question": "?", "choices": ["a", "b"], "answer": "A"}
    write(tmp_path / "mmlu.jsonl", [row])
    with pytest.raises(CorpusError, match=r"no question of mmlu in 1 rows \(of split val\)"):
        read_benchmark(tmp_path, TASKS["mmlu"])


def test_published_layouts_give_what_one_file_gives(tmp_path: Path) -> None:
    """MMLU without header, CMMLU and C-Eval with one, each a file a subject."""
    body = '"What, then?",no,"so ""so""",yes,"a\nb",B\n'
    header = "Question,A,B,C,D,Answer\n"
    for name, split, end in (
        ("mmlu", "test", "_test"),
        ("cmmlu", "test", ""),
        ("ceval", "val", "_val"),
    ):
        for folder, tail in ((split, end), ("dev", end and "_dev")):
            path = tmp_path / name / folder / f"old_ships{tail}.csv"
            path.parent.mkdir(parents=True)
            lines = {"mmlu": body, "cmmlu": "\ufeff" + header + body}
            path.write_text(
                lines.get(name, header.lower().replace(",a,b,c,d,", ",A,B,C,D,") + body)
            )
        found = read_benchmark(tmp_path, TASKS[name])
        (asked,), (shown,) = found.questions, found.examples
        assert (asked.id, asked.part, asked.gold) == (f"{split}/old_ships/0", "old_ships", 1)
        assert asked.options == ("no", 'so "so"', "yes", "a\nb")
        assert (shown.id, shown.text) == ("dev/old_ships/0", "What, then?")


def test_doctor_says_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "piqa.jsonl", PIQA)
    write(tmp_path / "c3.jsonl", [{"kind": "mixed"}])
    found = {finding.name: finding for finding in examine_benchmarks(tmp_path)}
    assert list(found) == [f"eval {name}" for name in TASKS]
    piqa, boolq, c3, blimp = (found[f"eval {name}"] for name in ("piqa", "boolq", "c3", "blimp"))
    assert piqa.state == "advice"
    assert "2 questions (published: 1,838)" in piqa.text
    assert path.name in piqa.text
    assert len(piqa.text.partition("sha256 ")[2].split()[0]) == 64
    assert boolq.state == "missing"
    assert "boolq.val.jsonl" in boolq.text
    assert c3.state == "missing"
    assert "c3.jsonl: row 1: no column" in c3.text
    assert blimp.state == "advice"

    assert run(["doctor", "--eval", str(tmp_path), "--json"]) == 1
    assert "eval piqa" in json.loads(capsys.readouterr().out)
    assert run(["doctor", "--eval", str(tmp_path / "none")]) == 2
