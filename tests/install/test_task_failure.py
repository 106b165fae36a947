"""The text for a failed task, from results in Ansible's format."""

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.phases.install.host_outcome import HostOutcome, describe_failure, describe_unreachable

UV_HASH = """\
Resolved 147 packages in 12ms
  \u00d7 Failed to download `numpy==2.3.1`
  ╰─▶ Hash mismatch for `numpy==2.3.1`

      Expected:
        sha256:0000000000000000000000000000000000000000000000000000000000000000

      Computed:
        sha256:1111111111111111111111111111111111111111111111111111111111111111
"""

RESULTS: dict[str, dict[str, Any]] = {
    "own-words": {
        "msg": "non-zero return code",
        "rc": 1,
        "stderr": "firstlight-error: file a.whl is not in /var/tmp/firstlight-0\nfirstlight-hint: run ./firstlight provision: it sends what is missing\n",
    },
    "own-words-over-a-terminal": {
        "msg": "non-zero return code",
        "rc": 1,
        "stdout": "firstlight-changed: packages g++\r\nfirstlight-error: another package manager (812 (apt-get)) held its lock for 600 s\r\n",
    },
    "uv-hash": {
        "msg": "uv could not install the lock of environment 55c76369ae072c03",
        "hint": "what uv says stands above; run ./firstlight provision to send missing or damaged files anew",
        "stderr": UV_HASH,
    },
    "disk-full": {
        "msg": "non-zero return code",
        "rc": 2,
        "stderr": "error: Failed to install: torch-2.13.0.whl\n  Caused by: failed to copy file: No space left on device (os error 28)",
    },
    "sudo": {"msg": "Task failed: Incorrect sudo password"},
    "unit": {
        "msg": "Unable to start service firstlight-vllm.service: Job for firstlight-vllm.service failed because the control process exited with error code.\npreflight refuses: port 8000 is held by PID 4711 (nginx)\nfirstlight-hint: see the whole log on gpu-1: journalctl -u firstlight-vllm.service"
    },
    "unit-without-words": {
        "msg": "Unable to restart service firstlight-vllm.service: Job for firstlight-vllm.service failed because the control process exited with error code.\nfirstlight-vllm.service: Control process exited, code=exited, status=219/CGROUP\nfirstlight-vllm.service: Failed with result 'exit-code'.\nfirstlight-hint: see the whole log on gpu-1: journalctl -u firstlight-vllm.service"
    },
    "own-module": {
        "msg": "model file weights is not in /var/tmp/firstlight-0",
        "hint": "run ./firstlight provision: it sends what is missing",
        "changed": False,
    },
    "silent": {"rc": 137},
    "nothing": {},
}


@pytest.mark.parametrize("case", sorted(RESULTS))
def test_a_failed_task_is_described_with_a_hint(case: str, snapshot: SnapshotAssertion) -> None:
    words = describe_failure("Build the environment", "gpu-1", RESULTS[case])
    assert f"error: {words.text}\n\nhint: {words.hint}" == snapshot


def test_an_unreachable_host_is_described_with_a_hint(snapshot: SnapshotAssertion) -> None:
    message = "Task failed: Failed to connect to the host via ssh: ssh: connect to host 192.0.2.7 port 22: Connection timed out"
    words = describe_unreachable(
        "Install missing operating system packages", "gpu-7", {"unreachable": True, "msg": message}
    )
    assert f"error: {words.text}\n\nhint: {words.hint}" == snapshot


def test_a_rescued_failure_is_no_failure() -> None:
    outcome = HostOutcome("gpu-1")
    outcome.task_ended("runner_on_failed", {"task": "Start", "res": {"msg": "no"}})
    outcome.task_ended("runner_on_ok", {"task": "Start otherwise", "res": {"changed": True}})
    outcome.close({"ok": {"gpu-1": 2}, "failures": {}, "dark": {}, "rescued": {"gpu-1": 1}})
    result = outcome.result(interrupted=False, playbook_end="")
    assert (result.status, result.changed) == ("ok", True)


def test_a_host_without_a_result_of_ansible_is_no_success() -> None:
    result = HostOutcome("gpu-1").result(
        interrupted=False, playbook_end="ansible-playbook ended with code 4: out of memory"
    )
    assert result.status == "failed"
    assert result.text == "Ansible returned no result for host gpu-1: ansible-playbook ended with code 4: out of memory"


def test_an_interrupted_host_names_its_task() -> None:
    outcome = HostOutcome("gpu-1")
    outcome.task = "Build the environment"
    result = outcome.result(interrupted=True, playbook_end="")
    assert (result.status, result.text) == ("interrupted", "interrupted in task `Build the environment`")


def test_an_interrupted_rollback_does_not_suggest_itself() -> None:
    def hint(command: str) -> str:
        return HostOutcome("gpu-1").result(command, interrupted=True, playbook_end="").hint or ""

    assert hint("rollback -i site").startswith("./firstlight status ")
    assert hint("rollback -i site").endswith("./firstlight rollback --to DIGEST")
    # Where the return after a failed start was interrupted, the run is what goes on.
    assert hint("provision").startswith("run the same command again")
