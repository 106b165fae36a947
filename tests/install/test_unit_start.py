"""The start of a unit that fails: Ansible runs the tasks of the role, systemctl and journalctl are stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provision.phases.install.task_failure import TaskReport, describe_failure
from tests.install.scripts import ROLES

pytestmark = pytest.mark.slow

SYSTEMCTL = """#!/bin/sh
case "$*" in
    *restart*)
        echo >> "$STATE/starts"
        [ "$(wc -l < "$STATE/starts")" -ge "$STARTS_AT" ] || { echo 'Job for the unit failed' >&2; exit 1; } ;;
    *InvocationID*) wc -l < "$STATE/starts" ;;
    *show*) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n' ;;
    *is-enabled*) echo enabled ;;
esac
"""
JOURNALCTL = """#!/bin/sh
case "$*" in
    *--output=cat*) cat "$STATE/journal-$(wc -l < "$STATE/starts" | tr -d ' ')" ;;
esac
"""
RELEASE = {"supervisor": "systemd", "scope": "system", "name": "firstlight-vllm.service", "uid": 0, "restart": True}
INCLUDED = {
    "ansible.builtin.include_role": {"name": "service", "tasks_from": "20_start.yml"},
    "vars": {"service_release": RELEASE},
}
KEPT = {
    "ansible.builtin.copy": {"content": "{{ ansible_failed_result | to_json }}", "dest": "{{ playbook_dir }}/failed"}
}
PLAY = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"block": [INCLUDED], "rescue": [KEPT]}]}]


def start(folder: Path, *journals: str, starts_at: int = 9) -> TaskReport | None:
    """Run the tasks; return how their failure is reported, None where the unit started.

    Args:
        folder: For files of the test.
        journals: What each start prints.
        starts_at: Number of the start that succeeds.
    """
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for number, text in enumerate(journals, start=1):
        (folder / f"journal-{number}").write_text(text)
    (folder / "starts").touch()
    (folder / "play.yml").write_text(json.dumps(PLAY))
    own = {
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LIBRARY": str(ROLES.parent / "library"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "STATE": str(folder),
        "STARTS_AT": str(starts_at),
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    python = f"ansible_python_interpreter={sys.executable}"
    command = [str(program), "-i", "localhost,", "-c", "local", "-e", python, "play.yml"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    failed = folder / "failed"
    return describe_failure("Start the unit", "gpu-1", json.loads(failed.read_text())) if failed.exists() else None


def test_the_first_start_that_failed_is_evidence_next_to_the_second(tmp_path: Path) -> None:
    found = start(
        tmp_path,
        "Starting the unit\npreflight refuses: port 8000 is held by PID 4711\nFailed to start.\n",
        "Starting the unit\npreflight refuses: the cache has 0 MiB free\nFailed to start.\n",
    )
    assert found is not None
    assert found.text == (
        "task `Start the unit` failed on host gpu-1: port 8000 is held by PID 4711; the cache has 0 MiB free"
    )
    assert [line for line in found.evidence if "Job for" not in line] == [
        "Starting the unit",
        "preflight refuses: port 8000 is held by PID 4711",
        "Failed to start.",
        "started again:",
        "preflight refuses: the cache has 0 MiB free",
        "firstlight-hint: see the whole log on localhost: journalctl --system -u firstlight-vllm.service",
    ]


def test_two_starts_that_fail_alike_are_told_once(tmp_path: Path) -> None:
    text = "Starting the unit\npreflight refuses: port 8000 is held by PID 4711\n"
    found = start(tmp_path, text, text)
    assert found is not None
    assert found.text == "task `Start the unit` failed on host gpu-1: port 8000 is held by PID 4711"
    assert "started again:" not in found.evidence


def test_a_unit_that_starts_the_second_time_is_started(tmp_path: Path) -> None:
    assert start(tmp_path, "preflight refuses: port 8000 is held by PID 4711\n", starts_at=2) is None
    assert (tmp_path / "starts").read_text().count("\n") == 2
