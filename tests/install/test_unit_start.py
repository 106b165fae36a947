"""The start of a unit that fails, and the stop of one without a file: Ansible runs the tasks of the role, systemctl and journalctl are stand-ins."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.phases.install.host_outcome import TaskReport, describe_failure
from tests.install.scripts import ROLES, run_ansible

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
    "ansible.builtin.copy": {
        "content": "{{ ansible_failed_result | to_json }}",
        "dest": "{{ playbook_dir }}/{{ inventory_hostname }}/failed",
    }
}
HELD = "preflight refuses: port 8000 is held by PID 4711\n"
FULL = "preflight refuses: the cache has 0 MiB free\n"
JOURNALS = {
    "fails-twice": (f"Starting the unit\n{HELD}Failed to start.\n", f"Starting the unit\n{FULL}Failed to start.\n"),
    "fails-alike": (f"Starting the unit\n{HELD}", f"Starting the unit\n{HELD}"),
    "starts-again": (HELD,),
}
"""What each start prints, on each host."""


def play(folder: Path, included: dict[str, Any], hosts: dict[str, dict[str, int]], systemctl: str) -> None:
    """Run tasks on hosts, each with variables for its stand-ins and a folder of its name, where the result of a failure is kept."""
    for name, text in (("systemctl", systemctl), ("journalctl", JOURNALCTL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for host in hosts:
        (folder / host).mkdir(exist_ok=True)
    inventory = {host: {"given": {key: str(value) for key, value in given.items()}} for host, given in hosts.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    tasks = {
        "hosts": "all",
        "gather_facts": False,
        "environment": ["{{ given }}", {"STATE": "{{ playbook_dir }}/{{ inventory_hostname }}"}],
        "tasks": [{"block": [included], "rescue": [KEPT]}],
    }
    (folder / "play.yml").write_text(json.dumps([tasks]))
    own = {
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LIBRARY": str(ROLES.parent / "library"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    python = f"ansible_python_interpreter={sys.executable}"
    words = ["-i", "hosts.json", "-c", "local", "-e", python, "play.yml"]
    done = run_ansible("ansible-playbook", *words, cwd=folder, **own)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start the unit on every host; return the folder with what each left."""
    folder = tmp_path_factory.mktemp("unit")
    for host, journals in JOURNALS.items():
        (folder / host).mkdir()
        for number, text in enumerate(journals, start=1):
            (folder / host / f"journal-{number}").write_text(text)
        (folder / host / "starts").touch()
    play(folder, INCLUDED, {host: {"STARTS_AT": 2 if host == "starts-again" else 9} for host in JOURNALS}, SYSTEMCTL)
    return folder


def failure(played: Path, host: str) -> TaskReport | None:
    """Return how the failure of a host is reported, None where its unit started."""
    failed = played / host / "failed"
    return describe_failure("Start the unit", "gpu-1", json.loads(failed.read_text())) if failed.exists() else None


def test_the_first_start_that_failed_is_evidence_next_to_the_second(played: Path) -> None:
    found = failure(played, "fails-twice")
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
        "firstlight-hint: see the whole log on fails-twice: journalctl --system -u firstlight-vllm.service",
    ]


def test_two_starts_that_fail_alike_are_told_once(played: Path) -> None:
    found = failure(played, "fails-alike")
    assert found is not None
    assert found.text == "task `Start the unit` failed on host gpu-1: port 8000 is held by PID 4711"
    assert "started again:" not in found.evidence


def test_a_unit_that_starts_the_second_time_is_started(played: Path) -> None:
    assert failure(played, "starts-again") is None
    assert (played / "starts-again" / "starts").read_text().count("\n") == 2


STOP = {
    "ansible.builtin.include_role": {"name": "service", "tasks_from": "15_stop.yml"},
    "vars": {"service_stopped": RELEASE},
}
WITHOUT_FILE = """#!/bin/sh
case "$*" in
    *show*) printf 'LoadState=not-found\\nActiveState=active\\n' ;;
    *stop*) echo "$*" >> "$STATE/stopped"; exit "$ANSWER" ;;
esac
"""


def test_a_service_whose_unit_file_is_gone_is_stopped(tmp_path: Path) -> None:
    """systemd answers 5 where it has no such unit."""
    answers = {"runs": 0, "is-gone": 5, "does-not-stop": 1}
    play(tmp_path, STOP, {host: {"ANSWER": answer} for host, answer in answers.items()}, WITHOUT_FILE)
    for host in answers:
        assert (tmp_path / host / "stopped").read_text() == "--system stop firstlight-vllm.service\n"
    assert [host for host in answers if (tmp_path / host / "failed").exists()] == ["does-not-stop"]
