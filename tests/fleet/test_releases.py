"""Releases on booted hosts: rolled back by a command, by name, and automatically when a start fails; and rolled out step by step.

The tests of this file run in order; each continues from the state that the one before left.
"""

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.command_runner import CommandRunner, event
from tests.fleet.gateway_client import Client, keys
from tests.fleet.hosts import SHARING_CORES, Fleet, FleetHost, write_inventory
from tests.fleet.inventories import inventory_of_groups
from tests.fleet.serving import INVOCATION, PREFIX, ask, wait_until_healthy
from tests.fleet.snapshots import boot_serving
from tests.fleet.test_span import releases
from tests.waiting import wait_until

OTHER_NAME = "another-name"
RELEASES = pytest.mark.long("releases of a host", seconds=300)
BEHIND_A_GATEWAY = pytest.mark.long("releases behind a gateway", seconds=700)


@pytest.fixture(scope="module")
def other(fleet: Fleet) -> FleetHost:
    """One more host."""
    [other] = boot_serving(fleet)
    return other


@pytest.fixture(scope="module")
def hosts(host: FleetHost, other: FleetHost, firstlight: CommandRunner, folder: Path) -> list[FleetHost]:
    """Both, which take part in rollouts; a run finds the other one as planned, too."""
    firstlight.changes_nothing("provision", "-i", str(other.inventory(folder / "other")))
    return [host, other]


@pytest.fixture(scope="module")
def renamed(host: FleetHost, folder: Path) -> str:
    """The inventory with one setting changed."""
    return str(host.inventory(folder / "renamed", firstlight_served_model_name=OTHER_NAME))


@pytest.fixture(scope="module")
def firstlight(inventory: str, folder: Path) -> CommandRunner:
    """The command line; a run finds the host as planned."""
    run = CommandRunner(folder / "logs")
    run.changes_nothing("provision", "-i", inventory)
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
    changed = firstlight("provision", "-i", renamed, code=0)
    phases = changed.host(host.name)["phases"]
    seen = [phases[phase]["status"] for phase in ("install", "verify", "serve")]
    assert seen == ["skipped", "skipped", "ok"], "what was installed and checked holds"
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
    ended = firstlight("serve", "-i", bad, code=1)
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
    ended = firstlight("rollback", "-i", inventory, "--to", first, code=0)
    assert ended.host(host.name)["serve"]["ready"]
    assert ended.host(host.name)["release"] == first
    assert model_of(host) == "builtin-1"
    assert host.sh(f"cd {PREFIX}/releases; ls -d */").split() == sorted([f"{first}/", f"{second}/"])
    assert f"release {first}; previous release {second}" in firstlight("status", "-i", inventory).out
    assert firstlight("provision", "-i", inventory).summary["changed"] == 0


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
    assert f"its environment {PREFIX}/envs/{before['current']} is not there or not complete" in text
    after = installed(firstlight, inventory, host)
    assert (after["release"], after["service_pid"]) == (before["release"], before["service_pid"])


@pytest.mark.long(seconds=210)
def test_a_switch_whose_controller_is_killed_is_undone_by_rollback_and_finished_by_the_next_run(
    firstlight: CommandRunner, host: FleetHost, inventory: str, folder: Path
) -> None:
    before = installed(firstlight, inventory, host)
    other = str(host.inventory(folder / "cut", firstlight_max_model_len=400))
    cut_in_the_switch(firstlight, host, other)
    undone = firstlight("rollback", "-i", inventory)
    assert (undone.code, undone.host(host.name)["release"]) == (0, before["release"]), undone.output()
    cut_in_the_switch(firstlight, host, other)
    finished = firstlight("provision", "-i", other, code=0)
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


@pytest.mark.long(seconds=320)
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

    rolling("rollout", "resume", code=0)
    record = rollout_of(firstlight)
    assert (record["state"], {host["state"] for host in record["hosts"]}) == ("done", {"updated"})
    first, last = record["decisions"]
    assert (first["verdict"], last["verdict"], first["failed"], last["failed"]) == ("go on", "go on", 0, 0)
    assert min(first["requests"], last["requests"]) >= 509
    assert (set(first["first_token_s"]), set(last["first_token_s"])) == ({"new", "old"}, {"new"})
    assert {*releases(firstlight, both).values()} == {record["hosts"][0]["after"]}
    again = firstlight("rollout", "-i", both)
    assert (again.code, again.out.strip().rpartition(": ")[2]) == (0, "every host serves this release already")


@pytest.mark.long(seconds=320)
def test_a_rollout_whose_first_host_fails_leaves_the_other_alone(
    firstlight: CommandRunner, hosts: list[FleetHost], folder: Path
) -> None:
    seen = str(write_inventory(folder / "seen", hosts))
    before, process = releases(firstlight, seen), installed(firstlight, seen, hosts[1])["service_pid"]
    bad = str(write_inventory(folder / "broken", hosts, firstlight_vllm_args=["--no-such-option"]))
    ended = firstlight("rollout", "-i", bad, "--steps", "50,100", code=1)
    assert "was refused: firstlight-vllm.service" in ended.out
    record = rollout_of(firstlight)
    assert record["state"] == "rolled back"
    assert [host["state"] for host in record["hosts"]] == ["returned", "waiting"]
    assert releases(firstlight, bad) == before
    assert installed(firstlight, bad, hosts[1])["service_pid"] == process


@dataclass(frozen=True)
class Site:
    """A gateway in front of the hosts."""

    gateway: FleetHost
    hosts: list[FleetHost]
    folder: Path
    command: CommandRunner

    def inventory(self, **variables: Any) -> str:
        """Write an inventory, whose variables apply to all hosts."""
        folder = self.folder / "-".join(["behind", *variables])
        given = {"firstlight_expose": True, "firstlight_bind": "0.0.0.0", **SHARING_CORES, **variables}
        return str(inventory_of_groups(folder, {"gateway": ([self.gateway], {}), "serving": (self.hosts, {})}, **given))

    def shown(self, host: FleetHost) -> dict[str, Any]:
        """Return a host as `gateway status` shows it."""
        said = self.command("gateway", "status", "-i", self.inventory(), "--json")
        [gate] = json.loads(said.out)["gateways"]
        return next(one for one in gate["hosts"] if one["host"] == host.name)

    def answers(self) -> set[int]:
        """Return the statuses of some requests of a client."""
        client = Client(self.gateway, keys(self.gateway)["default"])
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        return {client.chat("builtin-1", **asked)[0] for _ in range(4)}


@pytest.fixture(scope="module")
def site(fleet: Fleet, host: FleetHost, other: FleetHost, folder: Path) -> Site:
    [gateway] = fleet.boot(1, packages=("haproxy", "openssl"))
    site = Site(gateway, [host, other], folder, CommandRunner(folder / "logs"))
    site.command("provision", "-i", site.inventory(), code=0)
    return site


@BEHIND_A_GATEWAY
def test_a_canary_that_loses_its_power_is_in_traffic_again_after_the_command_that_is_left(site: Site) -> None:
    (canary, other), inventory, firstlight = site.hosts, site.inventory(), site.command
    before = releases(firstlight, inventory)
    rolling = CommandRunner(firstlight.logs, "tests.fleet.times_not_compared")
    asked = ("-i", site.inventory(firstlight_max_model_len=448), "--steps", "50:1h,100")
    rollout = rolling.start("rollout", *asked)
    rolling.wait_for(rollout, lambda run: (run / "gate.json").exists())
    alone = (firstlight.logs / "latest").resolve()
    rolling.wait_for(rollout, lambda run: run != alone and event("observed", unread=[])(run))
    assert (site.shown(canary)["state"], site.shown(canary)["share"]) == ("canary", 50)
    canary.kill()
    rolling.wait_for(rollout, event("observed", unread=[f"{canary.name}, which cannot be reached"]))
    assert site.shown(canary)["state"] == "down"
    assert site.answers() == {200}
    paused = rolling.end(rollout, send=signal.SIGINT)
    assert (paused.code, rollout_of(firstlight)["state"]) == (130, "paused"), paused.output()

    aborted = firstlight("rollout", "abort")
    assert (aborted.code, rollout_of(firstlight)["state"]) == (1, "failed"), aborted.output()
    [left] = re.findall(r"^left: (.*)$", aborted.out, re.MULTILINE)
    assert left.endswith(f"# when {canary.name} answers; it gets no requests until then")
    canary.boot()
    wait_until_healthy(canary)
    assert (site.shown(canary)["state"], site.shown(canary)["healthy"]) == ("drained", True)
    status = " ".join(firstlight("status", "-i", inventory).out.split())
    states = ", ".join(sorted((f"{canary.name} drained", f"{other.name} up")))
    assert f"1 of 2 hosts in traffic: {states}" in status, status
    found = firstlight("gateway", "-i", inventory)
    out = found.host(site.gateway.name)["gateway"]["out"]
    assert out == {canary.name: "drained by a run, until one has verified it"}
    assert "1 of them in traffic" in found.out, found.output()
    assert site.answers() == {200}

    firstlight(*shlex.split(left, comments=True)[1:], code=0)
    assert releases(firstlight, inventory) == before
    requests = site.shown(canary)["requests"]
    assert (site.shown(canary)["state"], site.answers()) == ("up", {200})
    assert site.shown(canary)["requests"] > requests
    ended = firstlight.changes_nothing("provision", "-i", inventory)
    assert ended.host(site.gateway.name)["gateway"]["out"] == {}


@BEHIND_A_GATEWAY
def test_a_stopped_engine_is_restarted_and_in_traffic_again(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    host, uptime = site.hosts[0], "cut -d' ' -f1 /proc/uptime"
    before, stopped = host.sh(f"{INVOCATION}; kill -STOP $(pgrep -f ^VLLM::EngineCore); {uptime}").split()
    wait_until(lambda: site.shown(host)["state"] == "down", "the gateway does not notice")
    assert site.answers() == {200}
    host.sh(f'while test "$({INVOCATION})" = {before}; do sleep 0.5; done', timeout_s=120)
    wait_until_healthy(host)
    wait_until(lambda: site.shown(host)["state"] == "up", "it gets no requests again")
    record_property("seconds", round(float(host.sh(uptime)) - float(stopped)))
    assert site.answers() == {200}
