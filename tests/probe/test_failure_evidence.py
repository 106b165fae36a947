"""What is read of a service's journal after a failure."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "provision/phases/probe/failure_evidence.sh"
UNIT = "firstlight-vllm.service - vLLM, provisioned by Firstlight"
KILLED = [f"Starting {UNIT}...", "first cause", f"Stopped {UNIT}."]
RESTARTED = ["firstlight-vllm.service: Scheduled restart job, restart counter is at 1.", f"Stopped {UNIT}."]
FAILED = [f"Starting {UNIT}...", "second cause", "firstlight-vllm.service: Failed with result 'exit-code'."]


@pytest.mark.parametrize(
    ("journal", "count", "shown"),
    [
        ([*FAILED, *RESTARTED, *FAILED], 2, [*FAILED, *RESTARTED, *FAILED]),
        # systemd has counted a restart that has not begun
        ([*KILLED, *FAILED], 2, FAILED),
        ([*KILLED, *FAILED, *RESTARTED, *FAILED], 3, [*FAILED, *RESTARTED, *FAILED]),
        # a service that was stopped after its failure
        ([*KILLED, *FAILED, f"Stopped {UNIT}."], 1, [*FAILED, f"Stopped {UNIT}."]),
        (["of another boot", *FAILED], 1, FAILED),
    ],
)
def test_starts_before_a_manual_start_are_left_out(journal: list[str], count: int, shown: list[str]) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    function = text[text.index("starts() {") :].partition("\n}\n")[0] + "\n}\n"
    done = subprocess.run(
        ["sh", "-c", f"{function}starts {count}"],
        input="\n".join(journal) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == shown


@pytest.mark.parametrize("call", ["journal --system", "health_agent"])
@pytest.mark.parametrize(("prefix", "is_ours"), [("/opt/firstlight", True), ("/home/ada/firstlight", False)])
def test_a_journal_of_another_installation_is_not_read(call: str, prefix: str, is_ours: bool) -> None:
    text = SCRIPT.read_text(encoding="utf-8").replace("/run/systemd/system", "/")
    function = text[text.index(f"{call.partition(' ')[0]}() {{") :].partition("\n}\n")[0] + "\n}\n"
    stand_in = """
has() { :; }
absent() { return 1; }
limit() {
    case $* in
        *LoadState*) echo loaded ;;
        *ActiveState*) echo active ;;
        *EnvironmentFiles*) echo 'EnvironmentFiles=/opt/firstlight/etc/service.env (ignore_errors=no)' ;;
        *ExecStart*) echo 'ExecStart={ path=/opt/firstlight/current/bin/python ; argv[]=/opt/firstlight/current/bin/python -I }' ;;
        *NRestarts*) echo 0 ;;
        journalctl*) echo 'down: of root' ;;
        *) echo 1f ;;
    esac
}
newest() { echo 'down: of root'; }
"""
    done = subprocess.run(
        ["sh", "-c", f"{stand_in}{function}{call}"],
        env={"FL_PREFIX": prefix, "FL_UNIT": "firstlight-vllm.service"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode == 0) == ("down: of root" * is_ours, is_ours)


@pytest.mark.parametrize("since", ["", "90"])
def test_processes_that_the_kernel_ended_before_the_failure_are_left_out(since: str) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    function = text[text.index("kernel() {") :].partition("\n}\n")[0] + "\n}\n"
    function = function.replace("/run/systemd/system", "/")
    stand_in = """
has() { :; }
absent() { :; }
newest() {
    case $* in
        dmesg | *--lines*) printf '%s\n' 'NVRM: loading' 'Out of memory: Killed process 7 (python3)' ;;
        *--since=-90s*) printf '%s\n' 'NVRM: loading again' 'Out of memory: Killed process 9 (vllm)' ;;
    esac
}
"""
    done = subprocess.run(
        ["sh", "-c", f"{stand_in}{function}kernel"],
        env={"FL_SINCE_S": since}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended = "9 (vllm)" if since else "7 (python3)"
    assert done.stdout.splitlines() == ["NVRM: loading", f"Out of memory: Killed process {ended}"]
