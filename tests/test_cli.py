"""The command line: results on stdout, one line of error on stderr, the promised exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketlm.cli import run


@pytest.fixture(scope="module")
def out(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli")
    assert run(["make", str(tiny_recipe), "--out", str(out), "-q"]) == 0
    return out


def test_make_prints_parent_against_child_and_the_report(
    tiny_recipe: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["make", str(tiny_recipe), "--out", str(out), "-q"]) == 0
    printed = capsys.readouterr()
    for words in (
        "parent",
        "child",
        "parameters",
        "bits per byte",
        "decode tokens/s",
        "report.html",
    ):
        assert words in printed.out
    assert printed.err == ""
    page = (out / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Parent against child" in page


def test_json_is_one_object_of_numbers(
    tiny_recipe: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["make", str(tiny_recipe), "--out", str(out), "--json", "-q"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["child.bits_per_byte"] > 0
    assert len(table["reused"]) == 9


def test_stage_verbs_stop_after_their_stage(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["design", str(tiny_recipe), "--out", str(tmp_path), "-q"]) == 0
    assert "params" in capsys.readouterr().out
    made = {path.name.split("-")[0] for path in (tmp_path / "store").glob("*-*")}
    assert made == {"counts", "compact", "design"}


def test_plan_says_what_is_reused(
    tiny_recipe: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", str(tiny_recipe), "--out", str(out), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert all(step["reused"] for step in steps)
    assert run(["plan", str(tiny_recipe), "--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out.count(" make ") == 9
    assert not (tmp_path / "none").exists()


def test_show_everything(tiny_recipe: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, says in (
        ("tiny", "child.bits_per_byte"),
        (str(tiny_recipe), "keep_fraction = 0.5"),
        ("raspberry-pi-5", "tokens/s"),
        ("methods", "softmax-loss"),
    ):
        assert run(["show", what, "--out", str(out)]) == 0
        assert says in capsys.readouterr().out
        assert run(["show", what, "--out", str(out), "--json"]) == 0
        json.loads(capsys.readouterr().out)
    assert run(["show", "nothing", "--out", str(out)]) == 2
    assert "it has tiny; devices" in capsys.readouterr().err


def test_show_two_runs(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "tiny", "tiny", "--out", str(out)]) == 0
    assert "held-out text" in capsys.readouterr().out
    assert run(["show", "tiny", "tiny", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"]["difference"]["value"] == 0.0
    assert run(["show", "tiny", "nothing", "--out", str(out)]) == 2
    assert "no run 'nothing'" in capsys.readouterr().err


def test_generate_is_greedy_and_repeatable(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: str) -> str:
        assert (
            run(["generate", "tiny", "the License", "--out", str(out), "--tokens", "9", *options])
            == 0
        )
        return capsys.readouterr().out

    assert text() == text()
    assert text().startswith("the License")
    warm = ["--temperature", "5", "--seed"]
    assert text(*warm, "1") == text(*warm, "1") != text(*warm, "2")


def test_new_prints_a_recipe_that_loads(
    tiny_parent: Path, tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--parent", str(tiny_parent), "--corpus", str(tiny_text), "--max-params", "16000"]
    assert run(["new", *options, "--device", "iphone"]) == 0
    (tmp_path / "new.toml").write_text(capsys.readouterr().out)
    assert run(["show", str(tmp_path / "new.toml")]) == 0
    shown = capsys.readouterr().out
    assert "max_params = 16000" in shown
    assert 'device = "iphone"' in shown


def test_doctor_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    assert "torch" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "train.round=1"], "[train] round: no such key; did you mean 'rounds'?"),
        (["--set", "train.rounds=many"], "[train] rounds = 'many'"),
        (["--set", "rounds"], "write it as table.key=value"),
        (["--redo", "trian"], "no stage 'trian'"),
        (["--out", "/proc/none"], "cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    arguments: list[str], says: str, tiny_recipe: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    place = [] if "--out" in arguments else ["--out", str(tmp_path)]
    assert run(["make", str(tiny_recipe), *place, *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert run(["make", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_wrong_option_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["make", "--nonsense"]) == 2


def test_help_names_every_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pocketlm", "--help"], capture_output=True, text=True, check=True
    )
    verbs = (
        "make plan show generate new doctor compare compact design inherit train evaluate export"
    )
    for verb in verbs.split():
        assert f" {verb} " in done.stdout
