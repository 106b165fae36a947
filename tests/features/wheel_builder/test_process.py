"""A build without a controller ends, with all of its processes."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import OUTLASTS_S, PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys
from pathlib import Path
from provision.features.wheel_builder.onbuilder.process import CancelledError, FailedError, cancel_on_signals, run, send_event
cancel_on_signals()
try:
    with open(sys.argv[1], "wb") as log:
        run(["sh", "-c", sys.argv[2]], log, os.environ, Path("/"), lambda line: send_event("line", text=line))
except CancelledError:
    sys.exit(130)
except FailedError as failure:
    send_event("failed", text=failure.text, hint=failure.hint)
    sys.exit(1)
"""
STUBBORN = f"""
import subprocess
for start in ("trap '' TERM; ", ""):
    child = subprocess.Popen(["sh", "-c", start + "sleep {OUTLASTS_S}; sleep {OUTLASTS_S}"], process_group=0)
    print(child.pid, flush=True)
child.wait()
"""
"""Two children in process groups of their own, as ninja has them; one of them does not heed SIGTERM."""


def start(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), script],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["input ends", signal.SIGTERM, signal.SIGHUP])
def test_the_whole_session_ends(tmp_path: Path, how: str | signal.Signals) -> None:
    program = start(tmp_path, shlex.join([sys.executable, "-c", STUBBORN]))
    assert program.stdout
    assert program.stdin
    children = [int(json.loads(program.stdout.readline())["text"]) for _ in range(2)]
    assert all(alive(child) for child in children)
    if isinstance(how, signal.Signals):
        os.kill(program.pid, how)
    else:
        program.stdin.close()
    assert program.wait(timeout=PATIENCE_S) == 130
    wait_until(lambda: not any(alive(child) for child in children), "a child is left")


def test_a_failed_program_reports_its_last_lines(tmp_path: Path) -> None:
    program = start(tmp_path, "echo first; echo 'x.cu(3): error: no such thing' >&2; exit 3")
    assert program.stdout
    out = program.stdout.read()
    program.wait(timeout=PATIENCE_S)
    failed = json.loads(out.splitlines()[-1])
    assert program.returncode == 1
    assert failed["text"] == "`sh` ended with 3"
    assert failed["hint"] == "first\nx.cu(3): error: no such thing"
    assert "no such thing" in (tmp_path / "log").read_text()
