"""What `plan` and a run say of what stands around services."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.models.inventory import GATEWAY, MONITORING, Connection, Host
from provision.core.models.settings import Settings
from provision.report.planned_changes import around_lines


def host(name: str, groups: tuple[str, ...] = (), **settings: Any) -> Host:
    connection = Connection(kind="ssh", address="10.0.0.5", port=22)
    return Host(name=name, connection=connection, settings=Settings(**settings), groups=groups)


def named(*hosts: Host) -> dict[str, list[str]]:
    """Return what is named around hosts, each with the hosts that get it."""
    found: dict[str, list[str]] = {}
    for line in around_lines(hosts):
        where, _, what = line.partition(": ")
        found.setdefault(what.split(",")[0], []).append(where)
    return found


def test_a_host_that_serves_gets_a_watchdog() -> None:
    assert named(host("gpu-1"), host("gpu-2", watchdog=False), host("gpu-3", serve=False)) == {"watchdog": ["gpu-1"]}


@pytest.mark.parametrize(("group", "program"), [(GATEWAY, "gateway"), (MONITORING, "monitoring")])
def test_rules_are_set_for_hosts_of_the_inventory_that_connect(group: str, program: str) -> None:
    serving = host("gpu-1", firewall="set")
    assert named(serving) == {"watchdog": ["gpu-1"]}
    around = host("other", (group,))
    assert named(serving, around) == {"firewall": ["gpu-1"], "watchdog": ["gpu-1"], program: ["other"]}
    assert "firewall" not in named(host("gpu-1", firewall="tell"), around)
