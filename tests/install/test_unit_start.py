"""The start of a unit that fails: Ansible runs the tasks of the role, systemctl and journalctl are stand-ins."""

import json
import os
import sys
from pathlib import Path

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
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"STATE": "{{ playbook_dir }}/{{ inventory_hostname }}", "STARTS_AT": "{{ starts_at }}"},
        "tasks": [{"block": [INCLUDED], "rescue": [KEPT]}],
    }
]
HELD = "preflight refuses: port 8000 is held by PID 4711\n"
FULL = "preflight refuses: the cache has 0 MiB free\n"
JOURNALS = {
    "fails-twice": (f"Starting the unit\n{HELD}Failed to start.\n", f"Starting the unit\n{FULL}Failed to start.\n"),
    "fails-alike": (f"Starting the unit\n{HELD}", f"Starting the unit\n{HELD}"),
    "starts-again": (HELD,),
}
"""What each start prints, on each host."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the tasks on every host; return the folder with what each left."""
    folder = tmp_path_factory.mktemp("unit")
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for host, journals in JOURNALS.items():
        (folder / host).mkdir()
        for number, text in enumerate(journals, start=1):
            (folder / host / f"journal-{number}").write_text(text)
        (folder / host / "starts").touch()
    lines = (f"{host} starts_at={2 if host == 'starts-again' else 9}\n" for host in JOURNALS)
    (folder / "hosts").write_text("".join(lines))
    (folder / "play.yml").write_text(json.dumps(PLAY))
    own = {
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LIBRARY": str(ROLES.parent / "library"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    python = f"ansible_python_interpreter={sys.executable}"
    done = run_ansible("ansible-playbook", "-i", "hosts", "-c", "local", "-e", python, "play.yml", cwd=folder, **own)
    assert done.returncode == 0, done.stdout + done.stderr
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
