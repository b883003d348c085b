"""Each finding says ok only when it is, and otherwise how to mend it."""

import subprocess
import sys

import pytest

from pocketlm import doctor


def test_examine_reports_this_environment() -> None:
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["Python"].state == "ok"
    assert findings["torch"].state == "ok"
    assert findings["torchvision"].state == "ok"
    assert {"cores", "memory", "bfloat16", "process", "C++ compiler", "disk"} <= set(findings)
    assert all(finding.text for finding in findings.values())


def test_examine_does_not_import_torch() -> None:
    program = (
        "import sys; from pocketlm.doctor import examine; examine();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("finding", "state", "words"),
    [
        (doctor.check_python((3, 10, 1)), "missing", "3.11"),
        (doctor.check_python((3, 14, 0)), "ok", "3.14.0"),
        (doctor.check_torch(None), "missing", "pip install"),
        (doctor.check_torch("2.9.1+cpu"), "missing", "2.11"),
        (doctor.check_torch("2.13.0+cpu"), "ok", "2.13.0"),
        (doctor.check_torch("3.0.0a1"), "ok", "3.0.0"),
        (doctor.check_torchvision("0.28.0"), "advice", "pip uninstall torchvision"),
        (doctor.check_torchvision(None), "ok", "absent"),
        (doctor.check_bfloat16(True), "ok", "hardware"),
        (doctor.check_bfloat16(False), "advice", "float32"),
        (doctor.check_compiler(None), "advice", "torch.compile"),
        (doctor.check_compiler("g++"), "ok", "g++"),
        (doctor.check_disk(10**9), "advice", "1 GB"),
        (doctor.check_disk(10**11), "ok", "100 GB"),
    ],
)
def test_findings(finding: doctor.Finding, state: str, words: str) -> None:
    assert finding.state == state
    assert words in finding.text


def test_a_missing_extra_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gguf" else "1")
    finding = doctor.check_extra("gguf")
    assert finding.state == "advice"
    assert "gguf not installed" in finding.text
    assert "pip install 'pocketlm[gguf]'" in finding.text


def test_process_advice_is_a_line_to_paste_and_then_gone() -> None:
    advice = doctor.check_process({}, "linux")
    assert advice.state == "advice"
    pairs = dict(word.split("=") for word in advice.text.split("export ")[1].split())
    assert doctor.check_process(pairs, "linux").state == "ok"
    assert doctor.check_process({}, "darwin").state == "ok"


def test_extras_are_those_of_the_project() -> None:
    from importlib.metadata import metadata

    declared = metadata("pocketlm").get_all("Provides-Extra") or []
    assert set(doctor.EXTRAS) == set(declared)
