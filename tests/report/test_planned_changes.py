"""What `plan` and a run say of what changes, and of what stands around services."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import Installed
from provision.core.models.inventory import GATEWAY, MONITORING, Connection, Host
from provision.core.models.invocation import Invocation
from provision.core.models.records import PlannedChange
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from provision.pipeline import CommandRequest
from provision.pipeline.commands import PlannedFrom, print_plan
from provision.report.planned_changes import change_lines
from provision.run.host_changes import around_lines, changes_of
from provision.run.results import PlannedHosts


def host(name: str, groups: tuple[str, ...] = (), **settings: Any) -> Host:
    connection = Connection(kind="ssh", address="10.0.0.5", port=22)
    return Host(name=name, connection=connection, settings=Settings(**settings), groups=groups)


def named(*hosts: Host, init: str = "systemd") -> dict[str, list[str]]:
    """Return what is named around hosts, each with the hosts that get it."""
    bare = parse_what_if("gpu=none os=debian-12 arch=x86_64 cpu=avx512")
    described = bare.model_copy(update={"os": bare.os.model_copy(update={"init": init})})
    facts = {one.name: described for one in hosts}
    planned = PlannedHosts(facts=facts, plan=choose_stacks(facts, {one.name: one.settings for one in hosts}))
    found: dict[str, list[str]] = {}
    for line in around_lines(hosts, planned):
        where, _, what = line.partition(": ")
        found.setdefault(what.split(",")[0], []).append(where)
    return found


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("", ["? depends on the host's system, which is not known"]),
        (" os=ubuntu-24.04", ["+ fabric manager 580.95.05; the driver stays"]),
    ],
    ids=["no system", "a known one"],
)
def test_a_kept_driver_of_a_system_that_is_not_given_is_no_error(described: str, expected: list[str]) -> None:
    facts, one = parse_what_if(f"gpu=H100x8 driver=580.95.05{described}"), host("what-if")
    stack = choose_stacks({one.name: facts}, {one.name: one.settings}).for_host(one.name).stack
    assert stack is not None
    changes = [change for change in changes_of(one, facts, stack) if change.part == "driver"]
    assert [f"{change.sign} {change.text}" for change in changes] == expected


def test_hosts_in_the_planned_state_have_no_changes() -> None:
    assert change_lines({"a": (), "b": ()}) == ["  no changes"]
    found = change_lines({"a": (), "b": (PlannedChange(part="model", sign="~", text="builtin-1 -> other"),)})
    assert found == ["  no changes on a", "  changes on b", "    ~ model  builtin-1 -> other"]


def test_a_host_that_serves_under_systemd_gets_a_watchdog() -> None:
    assert named(host("gpu-1"), init="bash") == {}
    assert named(host("gpu-1"), host("gpu-2", watchdog=False), host("gpu-3", serve=False)) == {"watchdog": ["gpu-1"]}


@pytest.mark.parametrize(("group", "program"), [(GATEWAY, "gateway"), (MONITORING, "monitoring")])
def test_rules_are_set_for_hosts_of_the_inventory_that_connect(group: str, program: str) -> None:
    serving = host("gpu-1", firewall="set")
    assert named(serving) == {"watchdog": ["gpu-1"]}
    around = host("other", (group,))
    assert named(serving, around) == {"firewall": ["gpu-1"], "watchdog": ["gpu-1"], program: ["other"]}
    assert "firewall" not in named(host("gpu-1", firewall="tell"), around)


def test_a_command_in_a_plan_is_for_its_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts, one = parse_what_if("gpu=none os=debian-12 arch=x86_64 cpu=avx512"), host("gpu-1")
    facts = facts.model_copy(update={"installed": Installed(prefix="/opt/firstlight", state={"stack": {}})})
    planned = choose_stacks({one.name: facts}, {one.name: one.settings})
    stack = planned.for_host(one.name).stack
    assert stack is not None
    hosts = PlannedFrom({one.name: facts}, {}, {}, changes={one.name: changes_of(one, facts, stack)})
    typed = Invocation(inventory="site", limit="gpu-1")
    print_plan(CommandRequest("plan", tmp_path, None, {}, tmp_path, invocation=typed), planned, hosts, explain=False)
    assert (
        "once this version combination is locked: ./firstlight stage -i site --limit gpu-1\n" in capsys.readouterr().out
    )
