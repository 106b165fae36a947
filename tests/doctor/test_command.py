"""The command: its text, its JSON and its exit codes, here and in verify.pyz."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import doctor as benchmark
from provision.core.models.facts import HostFacts, Nvidia
from provision.phases.verify.tool import build_zipapp
from provision.pipeline.failure_evidence import causes_of
from verify.doctor.catalog import load_causes
from verify.doctor.cli import main
from verify.doctor.engine import diagnose_texts
from verify.doctor.render import render_text
from verify.printable import WIDTH

ROOT = Path(__file__).resolve().parents[2]
BROKEN = "INFO fine\nImportError: libcudart.so.13: cannot open shared object file: No such file or directory\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "server.log"
    path.write_text(BROKEN, encoding="utf-8")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_json_is_a_list_with_an_entry_for_each_file(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = tmp_path / "quiet.log"
    quiet.write_text("nothing to see\n", encoding="utf-8")
    assert main(["--json", str(log), str(quiet)]) == 0
    one, other = printed(capsys)
    assert (one["file"], other["file"], other["findings"]) == (str(log), str(quiet), [])
    assert other["look_next"]
    found = one["findings"][0]
    assert found["cause"] == "wheel-cuda-mismatch"
    assert 0 < found["confidence"] < 1
    assert (found["evidence"][0]["line"], found["evidence"][0]["text"]) == (2, BROKEN.splitlines()[1])
    assert {"definition", "why", "fix", "check"} <= set(found)


def test_a_finding_is_an_exit_code_where_that_is_asked_for(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = log.with_name("quiet.log")
    quiet.write_text("nothing to see\n", encoding="utf-8")
    assert main(["--exit-code", str(quiet)]) == 0
    capsys.readouterr()
    assert main(["--exit-code", str(log)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("1. wheel-cuda-mismatch  (")
    assert any(line.startswith("        2 | ImportError: libcudart") for line in lines)
    assert any(line.startswith("   fix ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["/nowhere/to/be.log"], "cannot read `/nowhere/to/be.log`: No such file"),
        (["{log}", "--top", "0"], "--top 0"),
        (["{folder}"], "Is a directory"),
    ],
)
def test_wrong_usage_is_two(arguments: list[str], problem: str, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([part.format(log=log, folder=log.parent) for part in arguments]) == 2
    errors = capsys.readouterr().err
    assert problem in errors
    assert "hint: " in errors


def test_findings_come_in_order_of_confidence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.log"
    mixed.write_text(
        "\n".join(sample.text for cause in load_causes()[:12] for sample in cause.samples), encoding="utf-8"
    )
    assert main(["--json", "--top", "50", str(mixed)]) == 0
    confidences = [found["confidence"] for found in printed(capsys)[0]["findings"]]
    assert len(confidences) > 3
    assert confidences == sorted(confidences, reverse=True)


def test_text_fits_a_terminal() -> None:
    samples = [(cause.id, sample) for cause in load_causes() for sample in cause.samples]
    assert samples
    for name, sample in samples:
        shown = render_text("log", diagnose_texts({"log": sample.text}), top=3)
        commands = {line for line in shown.splitlines() if line.lstrip().startswith(("$ ", "check  $ "))}
        assert not [line for line in shown.splitlines() if len(line) > WIDTH and line not in commands], name


def older_python() -> str | None:
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    return next(map(str, pyenv), None) or shutil.which("python3.10", path="/usr/local/bin:/usr/bin")


@pytest.mark.parametrize("python", [sys.executable, older_python()])
def test_verify_pyz_finds_the_same(python: str | None, log: Path, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("no Python 3.10 on this machine")
    tool = build_zipapp(tmp_path / "verify.pyz")
    done = subprocess.run(
        [python, "-I", tool, "doctor", "--json", "-"], input=log.read_bytes(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)[0]["findings"][0]["cause"] == "wheel-cuda-mismatch"


def test_the_controller_command_finds_the_same(log: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "provision", "doctor", "--json", str(log)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["findings"][0]["cause"] == "wheel-cuda-mismatch"


def test_a_failed_phase_has_findings_in_the_summary() -> None:
    facts = HostFacts(host="n1", probed_at="2026-01-01T00:00:00Z", nvidia=Nvidia(driver_version="580.95.05"))
    found = causes_of({"serve": BROKEN}, facts)
    assert found[0].cause == "wheel-cuda-mismatch"
    assert found[0].evidence[0].startswith("serve:2: ImportError")
    assert found[0].fix
    assert causes_of({"serve": "all is well"}, facts) == ()
    assert causes_of({}) == ()


def test_the_benchmark_counts_correct_findings(tmp_path: Path) -> None:
    cases = [
        {"id": "1", "error_text": BROKEN, "env_text": "", "cause": "wheel-cuda-mismatch"},
        {"id": "2", "error_text": BROKEN, "env_text": "", "cause": "musl"},
        {"id": "3", "error_text": "all is well", "env_text": "", "cause": "musl"},
    ]
    outcomes = benchmark.evaluate(cases, environment=True)
    figures = benchmark.figures(outcomes)
    assert (figures["top_1"], figures["macro"], figures["no_finding"]) == (0.3333, 0.5, 1)
    assert figures["sure_and_wrong_cases"] == ["2"]
    assert [row["case"] for row in benchmark.confusions(outcomes)] == ["2", "3"]
