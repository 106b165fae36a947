"""A run on a real terminal: Ctrl-C, a closed window, and the output meanwhile."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from provision.phases.install.playbook import remembered_signals
from provision.pipeline.runner import as_interrupt
from tests.pipeline.command_lines import FAR, inventory_of, start_on_terminal
from tests.pipeline.test_diagnosis import BROKEN, result, run_folder
from tests.waiting import OUTLASTS_S, PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

READ_INPUT = (["0", "0x0"], ["63", "0x0"])
"""System call read() and standard input, as /proc/PID/syscall names them on x86_64 and on aarch64."""


@pytest.fixture
def waiting(tmp_path: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start a probe of a host whose connection hangs, on a new terminal; return the process, the terminal's other end and the folder of runs."""
    proxy = f"-F none -o ConnectTimeout={OUTLASTS_S} -o ProxyCommand='cat >/dev/null'"
    inventory = inventory_of(tmp_path, slow={"ansible_ssh_common_args": proxy})
    logs = tmp_path / "logs"
    return *start_on_terminal("probe", "-i", str(inventory), logs=logs), logs


def read_until(terminal: int, text: bytes) -> bytes:
    """Return what the terminal shows, up to and including a text."""
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 4096)
    return shown


def until_it_reads(process: subprocess.Popen[bytes]) -> None:
    """Return when a process waits for what is typed: Python notices a signal from just before that call after it only."""
    called = Path(f"/proc/{process.pid}/syscall")
    wait_until(lambda: called.read_text().split()[:2] in READ_INPUT, "it does not read its standard input")


def test_ctrl_c_leaves_a_summary_and_restores_the_terminal(waiting: tuple[subprocess.Popen[bytes], int, Path]) -> None:
    process, terminal, logs = waiting
    shown = read_until(terminal, b"1/1 probe")
    assert b"slow" in shown
    process.send_signal(signal.SIGINT)
    shown = read_until(terminal, b"RED")
    assert b"\x1b[?25h" in shown, "the cursor is shown again"
    assert process.wait(PATIENCE_S) == 130
    summary = json.loads((logs / "queries" / "latest" / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["hosts"][0]["state"] == "interrupted"


def test_a_closed_terminal_leaves_a_summary(waiting: tuple[subprocess.Popen[bytes], int, Path]) -> None:
    process, terminal, logs = waiting
    read_until(terminal, b"1/1 probe")
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.wait(PATIENCE_S)
    assert json.loads((logs / "queries" / "latest" / "summary.json").read_text())["interrupted"]


def test_a_host_without_a_plan_is_named_with_the_reason(tmp_path: Path) -> None:
    here = {"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "nothing")}
    inventory = inventory_of(tmp_path, here=here, far=FAR)
    process, ours = start_on_terminal("plan", "-i", str(inventory), "--vllm", "none", logs=tmp_path / "logs")
    shown = read_until(ours, b"hint: try it by hand")
    assert b"error: far: host far (127.0.0.1:1) cannot be reached" in shown
    assert process.wait(PATIENCE_S) == 1


def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_interrupt(), remembered_signals() as came:
            signal.raise_signal(signal.SIGHUP)
            assert not came()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_at_the_question_changes_nothing(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    run_folder(logs, "20260101T000000Z", "localhost", {"install": result("install", "failed")}, BROKEN)
    words = ("doctor", "--limit", "localhost", "--apply")
    process, ours = start_on_terminal(*words, logs=logs, stdout=subprocess.PIPE)
    read_until(ours, b"do it? [y/N]: ")
    until_it_reads(process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert out.splitlines()[-1] == b"python-headers-missing: interrupted: nothing was changed on localhost"
    os.close(ours)


@pytest.mark.parametrize("command", ["stop", "uninstall"])
def test_what_takes_a_service_away_is_asked_for_on_a_terminal(command: str, tmp_path: Path) -> None:
    host = {"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "nothing")}
    inventory = inventory_of(tmp_path, **{"gpu-7": host})
    logs = tmp_path / "logs"
    process, ours = start_on_terminal(command, "-i", str(inventory), logs=logs)
    assert b"gpu-7? [y/N]: " in read_until(ours, b"[y/N]: ")
    os.write(ours, b"\n")
    assert b"nothing was changed" in read_until(ours, b"changed")
    assert process.wait(PATIENCE_S) == 1
    assert not (logs / "latest").exists()
