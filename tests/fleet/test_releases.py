"""Releases on booted hosts: rolled back by a command, by name, and automatically when a start fails; and rolled out step by step.

The tests of this file run in order; each continues from the state that the one before left.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import Fleet, FleetHost, write_inventory
from tests.fleet.serving import PREFIX, ask
from tests.fleet.snapshots import boot_serving

OTHER_NAME = "another-name"
RELEASES = pytest.mark.long("releases of a host", seconds=280)


@pytest.fixture(scope="module")
def hosts(fleet: Fleet, host: FleetHost, firstlight: CommandRunner, folder: Path) -> Iterator[list[FleetHost]]:
    """That host and one more, which takes part in rollouts; a run finds it as planned."""
    [other] = boot_serving(fleet)
    found = firstlight("provision", "-i", str(other.inventory(folder / "other")))
    assert (found.code, found.summary["changed"]) == (0, 0), found.output()
    yield [host, other]
    other.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def inventory(host: FleetHost, folder: Path) -> str:
    return str(host.inventory(folder / "first"))


@pytest.fixture(scope="module")
def renamed(host: FleetHost, folder: Path) -> str:
    """The inventory with one setting changed."""
    return str(host.inventory(folder / "renamed", firstlight_served_model_name=OTHER_NAME))


@pytest.fixture(scope="module")
def firstlight(inventory: str, folder: Path) -> CommandRunner:
    """The command line; a run finds the host as planned."""
    run = CommandRunner(folder / "logs")
    found = run("provision", "-i", inventory)
    assert (found.code, found.summary["changed"]) == (0, 0), found.output()
    return run


def installed(firstlight: CommandRunner, inventory: str, host: FleetHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(firstlight("status", "-i", inventory, "--json").out)[host.name]
    return found


def model_of(host: FleetHost) -> str:
    status, models = ask(host)["with"]
    assert status == 200
    return str(models["data"][0]["id"])


@RELEASES
def test_a_changed_setting_makes_a_release_in_the_same_environment(
    firstlight: CommandRunner, host: FleetHost, inventory: str, renamed: str
) -> None:
    first = installed(firstlight, inventory, host)
    planned = json.loads(firstlight("plan", "-i", renamed, "--json").out)["changes"][host.name]
    text = f"model name builtin-1 -> {OTHER_NAME}; it restarts"
    assert planned == [{"part": "service", "sign": "~", "text": text, "send_bytes": 0}]
    assert "no changes" in firstlight("provision", "--dry-run", "-i", inventory).out
    changed = firstlight("provision", "-i", renamed)
    assert changed.code == 0, changed.output()
    phases = changed.host(host.name)["phases"]
    assert {phase: phases[phase]["status"] for phase in ("install", "verify", "serve")} == {
        "install": "skipped",
        "verify": "skipped",
        "serve": "ok",
    }, "what was installed and checked holds"
    second = installed(firstlight, inventory, host)
    assert changed.host(host.name)["release"] == second["release"]
    assert (second["previous_release"], second["current"]) == (first["release"], first["current"])
    assert model_of(host) == OTHER_NAME
    assert firstlight("provision", "-i", renamed).summary["changed"] == 0


@RELEASES
def test_a_failed_start_returns_automatically_and_the_summary_reports_it(
    firstlight: CommandRunner, host: FleetHost, renamed: str, folder: Path
) -> None:
    before = installed(firstlight, renamed, host)
    bad = str(host.inventory(folder / "bad", firstlight_vllm_args=["--no-such-option"]))
    ended = firstlight("serve", "-i", bad)
    assert ended.code == 1, ended.output()
    summary = ended.host(host.name)
    text = summary["phases"]["serve"]["text"]
    assert (summary["state"], summary["changed"], summary["release"]) == ("failed", True, before["release"])
    assert text.startswith(f"release `{summary['refused']}` was refused: firstlight-vllm.service")
    assert text.endswith(f"release `{before['release']}` serves again, its answers are right")
    assert "--no-such-option" in str(summary["phases"]["serve"]["evidence"])
    assert summary["refused"] in (ended.run / "summary.txt").read_text()
    assert model_of(host) == OTHER_NAME
    after = installed(firstlight, renamed, host)
    assert (after["release"], after["previous_release"]) == (before["release"], before["previous_release"])
    assert after["state"]["release"] == before["release"], "the next run with the bad settings starts them again"
    assert firstlight("provision", "-i", renamed).summary["changed"] == 0


@RELEASES
def test_a_release_is_restored_by_its_digest_and_unneeded_files_are_removed(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    before = installed(firstlight, inventory, host)
    second, first = before["release"], before["previous_release"]
    assert len(before["releases"]) == 3, "the refused release still exists for the next try"
    ended = firstlight("rollback", "-i", inventory, "--to", first)
    assert ended.code == 0, ended.output()
    assert ended.host(host.name)["serve"]["ready"]
    assert ended.host(host.name)["release"] == first
    assert model_of(host) == "builtin-1"
    assert host.sh(f"cd {PREFIX}/releases; ls -d */").split() == sorted([f"{first}/", f"{second}/"])
    assert f"release {first}; previous release {second}" in firstlight("status", "-i", inventory).out
    assert firstlight("provision", "-i", inventory).summary["changed"] == 0


@RELEASES
@pytest.mark.parametrize(("digest", "code"), [("00112233445566aa", 1), ("latest", 2)])
def test_a_release_that_does_not_exist_changes_nothing(
    firstlight: CommandRunner, host: FleetHost, inventory: str, digest: str, code: int
) -> None:
    before = installed(firstlight, inventory, host)
    ended = firstlight("rollback", "-i", inventory, "--to", digest)
    assert ended.code == code, ended.output()
    assert digest in ended.output()
    assert "hint" in ended.output()
    after = installed(firstlight, inventory, host)
    assert (after["release"], after["service_pid"]) == (before["release"], before["service_pid"])


@RELEASES
def test_a_release_without_its_environment_is_refused_and_the_service_continues(
    firstlight: CommandRunner, host: FleetHost, inventory: str
) -> None:
    before = installed(firstlight, inventory, host)
    marker = f"{PREFIX}/envs/{before['current']}/.complete"
    host.sh(f"mv {marker} /tmp/complete")
    ended = firstlight("rollback", "-i", inventory)
    host.sh(f"mv /tmp/complete {marker}")
    summary = ended.host(host.name)
    text = summary["phases"]["serve"]["text"]
    assert (ended.code, summary["changed"]) == (1, False), ended.output()
    assert f"its environment {PREFIX}/envs/{before['current']} is gone or not complete" in text
    after = installed(firstlight, inventory, host)
    assert (after["release"], after["service_pid"]) == (before["release"], before["service_pid"])


@RELEASES
def test_the_live_table_reads_the_metrics_of_a_host(
    firstlight: CommandRunner, host: FleetHost, inventory: str, folder: Path
) -> None:
    command = [sys.executable, "-m", "provision", "status", "-i", inventory, "--watch"]
    environment = {**os.environ, "FIRSTLIGHT_LOGS": str(folder / "watching"), "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = ""
    while not re.search(r"Ctrl-C ends(?s:.*)Ctrl-C ends", screen):
        screen += os.read(ours, 4096).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    os.close(ours)
    release = installed(firstlight, inventory, host)["release"]
    # The health agent may have asked its question meanwhile.
    assert re.search(rf"{host.name} +{release[:8]} +0 +0 +\d\.\d +\d\.\d", screen), screen


@pytest.mark.long(seconds=280)
def test_a_switch_whose_controller_is_killed_is_undone_by_rollback_and_finished_by_the_next_run(
    firstlight: CommandRunner, host: FleetHost, inventory: str, folder: Path
) -> None:
    before = installed(firstlight, inventory, host)
    other = str(host.inventory(folder / "cut", firstlight_max_model_len=400))
    cut_in_the_switch(firstlight, host, other)
    undone = firstlight("rollback", "-i", inventory)
    assert (undone.code, undone.host(host.name)["release"]) == (0, before["release"]), undone.output()
    cut_in_the_switch(firstlight, host, other)
    finished = firstlight("provision", "-i", other)
    assert finished.code == 0, finished.output()
    assert finished.host(host.name)["serve"]["ready"]
    after = installed(firstlight, other, host)
    assert (after["release"] != before["release"], after["previous_release"]) == (True, before["release"])
    assert firstlight("provision", "-i", other).summary["changed"] == 0


def cut_in_the_switch(firstlight: CommandRunner, host: FleetHost, inventory: str) -> None:
    """Kill a run as soon as `current` leads to its release, before the service is restarted."""
    read = f"readlink {PREFIX}/current"
    before = host.sh(read)
    killed = firstlight.start("serve", "-i", inventory)
    firstlight.wait_for(killed, lambda _: host.sh(read) != before)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()


def rollout_of(firstlight: CommandRunner) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(firstlight("rollout", "status", "--json").out)
    return found


@pytest.mark.long(seconds=200)
def test_a_rollout_whose_controller_is_killed_is_resumed_to_its_end(
    firstlight: CommandRunner, hosts: list[FleetHost], folder: Path
) -> None:
    both = str(write_inventory(folder / "rolled", hosts, firstlight_max_model_len=512))
    rolling = CommandRunner(firstlight.logs, "tests.fleet.times_not_compared")
    killed = rolling.start("rollout", "-i", both, "--steps", "50,100")
    rolling.wait_for(killed, lambda run: (run / "gate.json").exists())
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    record = rollout_of(firstlight)
    assert (record["state"], record["driven"]) == ("running", False)
    first, last = record["hosts"]
    assert (first["state"], last["state"] in ("waiting", "changing")) == ("updated", True)
    assert "no process drives it" in firstlight("rollout", "status").out
    assert firstlight("rollout", "-i", both).code == 2, "a second rollout is refused"

    ended = rolling("rollout", "resume")
    assert ended.code == 0, ended.output()
    record = rollout_of(firstlight)
    assert (record["state"], {host["state"] for host in record["hosts"]}) == ("done", {"updated"})
    first, last = record["decisions"]
    assert (first["verdict"], last["verdict"], first["failed"], last["failed"]) == ("go on", "go on", 0, 0)
    assert min(first["requests"], last["requests"]) >= 509
    assert (set(first["first_token_s"]), set(last["first_token_s"])) == ({"new", "old"}, {"new"})
    assert {each["release"] for each in releases(firstlight, both).values()} == {record["hosts"][0]["after"]}
    again = firstlight("rollout", "-i", both)
    assert (again.code, again.out.strip().rpartition(": ")[2]) == (0, "every host serves this release already")


@pytest.mark.long(seconds=200)
def test_a_rollout_whose_first_host_fails_leaves_the_other_alone(
    firstlight: CommandRunner, hosts: list[FleetHost], folder: Path
) -> None:
    before = releases(firstlight, str(write_inventory(folder / "seen", hosts)))
    bad = str(write_inventory(folder / "broken", hosts, firstlight_vllm_args=["--no-such-option"]))
    ended = firstlight("rollout", "-i", bad, "--steps", "50,100")
    assert ended.code == 1, ended.output()
    assert "was refused: firstlight-vllm.service" in ended.out
    record = rollout_of(firstlight)
    assert record["state"] == "rolled back"
    assert [host["state"] for host in record["hosts"]] == ["returned", "waiting"]
    after = releases(firstlight, bad)
    assert {name: each["release"] for name, each in after.items()} == {
        name: each["release"] for name, each in before.items()
    }
    assert after[hosts[1].name]["service_pid"] == before[hosts[1].name]["service_pid"]


def releases(firstlight: CommandRunner, inventory: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(firstlight("status", "-i", inventory, "--json").out)
    return found
