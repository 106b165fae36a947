"""Commands that stop a service for a while, as a user runs them; a script replaces the environment's Python on the host."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.pipeline.command_lines import COMMAND, inventory_of, variables
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

PYTHON = """#!/bin/sh
# called as: python -I PREFIX/bin/verify.pyz ARGUMENTS
shift 2
home=$(dirname "$(dirname "$(dirname "$0")")")
echo "$*" >> "$home/calls"
case "$*" in
  *--resume*) echo "firstlight-vllm.service was stopped, and answers correctly again after 3 s" ;;
  *) cat "$home/answer"; cat "$home/problem" >&2; [ ! -e "$home/slow" ] || sleep 600 ;;
esac
"""

TABLE = {
    "exit_code": 1,
    "rows": [{"name": "p99", "target": "at most -20%"}],
    "missed": ["p99"],
    "table": ["backend: A and B; speeds with 16 at once", "whole answer, p99   1000   900"],
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "current" / "bin").mkdir(parents=True)
    program = home / "current" / "bin" / "python"
    program.write_text(PYTHON)
    program.chmod(0o755)
    (home / "answer").write_text(json.dumps(TABLE))
    (home / "problem").touch()
    return home


def begin(tmp_path: Path, prefix: Path, *arguments: str) -> subprocess.Popen[str]:
    host = {"ansible_connection": "local", "firstlight_prefix": str(prefix)}
    return subprocess.Popen(
        [*COMMAND, "verify", *arguments, "-i", str(inventory_of(tmp_path, localhost=host))],
        env=variables(tmp_path / "logs", TERM="dumb"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


COMPARE = ("compare", "--backend", "A", "--backend", "B", "--target", "p99=-20")


def calls(prefix: Path) -> list[str]:
    path = prefix / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_both_back_ends_are_measured_on_the_host_which_keeps_the_summary_of_this_run_alone(
    tmp_path: Path, prefix: Path
) -> None:
    (prefix / "logs").mkdir()
    (prefix / "logs" / "summary.txt").write_text("of the run before")
    process = begin(tmp_path, prefix, *COMPARE)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert out.splitlines() == ["host localhost", *TABLE["table"]]  # type: ignore[misc]
    assert calls(prefix) == ["compare --backend A --backend B --target p99=-20 --json"]
    run = tmp_path / "logs" / "latest"
    assert json.loads((run / "compare" / "localhost.json").read_text()) == TABLE
    done = {json.loads(line)["how"] for line in (run / "changes.jsonl").read_text().splitlines()}
    assert {"lock", "compare"} <= done
    assert f"run {run.resolve().name}" in (prefix / "logs" / "summary.txt").read_text()
    assert [path.name for path in (prefix / "logs").iterdir()] == ["summary.txt"]


def test_a_host_that_cannot_be_measured_is_reported_with_the_reason(tmp_path: Path, prefix: Path) -> None:
    (prefix / "answer").write_text("")
    (prefix / "problem").write_text("error: B: the server ended with 1\n\nhint: ./firstlight doctor\n")
    process = begin(tmp_path, prefix, *COMPARE, "--json")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert json.loads(out) == []
    assert "host `localhost`: B: the server ended with 1" in err


@pytest.mark.parametrize("arguments", [COMPARE, ("--drain",)], ids=["compare", "drain"])
def test_an_interrupted_command_starts_the_service_again(
    tmp_path: Path, prefix: Path, arguments: tuple[str, ...]
) -> None:
    (prefix / "slow").touch()
    process = begin(tmp_path, prefix, *arguments)
    wait_until(lambda: calls(prefix), "it never begins")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out + err
    assert calls(prefix)[-1] == "--resume"
    events = [json.loads(line) for line in (tmp_path / "logs" / "latest" / "events.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events if event["kind"] == "resumed"] == [
        "firstlight-vllm.service was stopped, and answers correctly again after 3 s"
    ]
