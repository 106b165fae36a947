"""Firewalls of the hosts of a run: when rules are loaded, changed and removed, and what the run writes instead."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.models.records import PhaseResult
from provision.features.firewall import hooks
from provision.run.context import RunContext
from tests.features.firewall.fake_firewalls import Fleet, fleet

__all__ = ["fleet"]


def serve(context: RunContext, name: str) -> PhaseResult:
    return context.outcomes.results[name]["serve"]


def told(note: str) -> str:
    """Return the rules in the file that a note names."""
    return Path(note.rpartition(" ")[2]).read_text()


def test_by_default_the_run_writes_the_rules_and_changes_nothing(fleet: Fleet) -> None:
    context = fleet.run()
    assert fleet.played == []
    (note,) = serve(context, "gate").notes
    assert note.startswith(
        "no firewall was changed; so that only the gateway can reach gpu-1, gpu-2: firstlight_firewall: set, or as root"
    )
    assert note.endswith("firewall/gpu-1.nft")
    for port in (8000, 8009):
        assert f"tcp dport {port} tcp flags & (syn | ack) == syn ip saddr {{ 10.0.0.1 }} accept" in told(note)
    assert "gpu-1" not in context.outcomes.results


def test_all_services_of_a_machine_are_in_one_file(fleet: Fleet) -> None:
    """Each file replaces the rules that were loaded before."""
    fleet.hosts["gpu-2"].port = 8001
    (note,) = serve(fleet.run(services=True), "gate").notes
    assert ": as root there nft -f on a copy of " in note, "services cannot have firstlight_firewall: set"
    assert note.endswith("firewall/gpu.nft")
    for port in (8000, 8001, 8009):
        assert told(note).count(f"tcp dport {port} tcp flags & (syn | ack) == syn reject") == 1


def test_rules_are_loaded_once_and_follow_the_gateway(fleet: Fleet) -> None:
    context = fleet.run(firewall="set")
    assert fleet.played == [("load", ["gpu-1", "gpu-2"])]
    assert "tcp dport 8000 tcp flags & (syn | ack) == syn ip saddr { 10.0.0.1 } accept" in fleet.rules("gpu-1")
    assert serve(context, "gpu-1").text == "only gateways and monitoring reach port 8000, 8009"
    assert serve(context, "gpu-1").changed
    assert fleet.run(firewall="set").outcomes.results.keys() == {"gate"}
    assert fleet.played == []
    fleet.hosts["gate"].sources = "10.0.0.7"
    fleet.run(firewall="set")
    assert fleet.played == [("load", ["gpu-1", "gpu-2"])]
    assert "10.0.0.7" in fleet.rules("gpu-2")
    assert "10.0.0.1" not in fleet.rules("gpu-2")


@pytest.mark.parametrize("change", [{"firewall": "tell"}, {"firewall": "set", "gateway": False}])
def test_rules_are_removed_with_the_setting_and_with_the_last_gateway(fleet: Fleet, change: dict[str, Any]) -> None:
    fleet.run(firewall="set")
    context = fleet.run(**change)
    assert fleet.played == [("remove", ["gpu-1", "gpu-2"])]
    assert serve(context, "gpu-1").text == "the rules of its firewall were removed"
    fleet.run(**change)
    assert fleet.played == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"firewall": "set"}, ["gpu-1", "gpu-2"]),
        ({"firewall": "tell"}, []),
        ({"firewall": "set", "gateway": False}, []),
    ],
)
def test_a_plan_knows_which_hosts_need_packages_for_rules(
    fleet: Fleet, settings: dict[str, Any], names: list[str]
) -> None:
    hosts = fleet.open_run(**settings).inventory.hosts
    assert hooks.needed_packages(hosts) == {name: ["nftables"] for name in names}


def test_rules_that_lock_a_gateway_out_are_taken_back(fleet: Fleet) -> None:
    fleet.hosts["gate"].locked_out = [fleet.hosts["gpu-2"]]
    context = fleet.run(firewall="set")
    assert fleet.played == [("load", ["gpu-1", "gpu-2"]), ("remove", ["gpu-2"])]
    failed = serve(context, "gpu-2")
    assert failed.status == "failed"
    assert "gate did not reach port 8000 any more; they were removed" in str(failed.text)
    assert "firstlight_firewall_accept" in str(failed.hint)
    assert serve(context, "gpu-1").status == "ok"


def test_a_host_whose_server_does_not_answer_anyway_keeps_its_rules(fleet: Fleet) -> None:
    fleet.hosts["gate"].refused = {"gpu-1"}
    context = fleet.run(firewall="set")
    assert fleet.played == [("load", ["gpu-1", "gpu-2"])]
    assert serve(context, "gpu-1").status == "ok"


def test_a_host_is_left_as_it_is_where_the_gateways_address_is_unknown(fleet: Fleet) -> None:
    fleet.run(firewall="set")
    before = fleet.rules("gpu-1")
    fleet.hosts["gate"].sources = ""
    context = fleet.run(firewall="set")
    assert fleet.played == []
    assert fleet.rules("gpu-1") == before
    assert serve(context, "gpu-1").status == "warn"
    assert "from which address gate reaches it is unknown" in str(serve(context, "gpu-1").text)


def test_a_run_over_a_part_of_the_inventory_changes_no_firewall(fleet: Fleet) -> None:
    fleet.run(firewall="set", limited=True)
    assert fleet.played == []


def test_rules_need_root(fleet: Fleet) -> None:
    context = fleet.run(firewall="set", root=False)
    assert fleet.played == []
    assert "need root" in str(serve(context, "gpu-1").text)


def test_a_port_of_ssh_is_refused(fleet: Fleet) -> None:
    context = fleet.run(firewall="set", health_port=22)
    assert fleet.played == []
    assert "is the port of SSH" in str(serve(context, "gpu-1").text)


@pytest.mark.parametrize(("bind", "span"), [("127.0.0.1", False), (None, True)])
def test_monitoring_reaches_the_metrics_of_a_host_whose_server_it_does_not_reach(
    fleet: Fleet, bind: str | None, span: bool
) -> None:
    fleet.hosts["gpu-1"].bind, fleet.hosts["mon"].sources = bind, "10.0.0.3"
    fleet.run(firewall="set", monitoring=True, span=span)
    for name in ("gpu-1", "gpu-2"):
        assert "tcp dport 9100 tcp flags & (syn | ack) == syn ip saddr { 10.0.0.3 } accept" in fleet.rules(name)


def test_monitoring_reaches_the_metrics_of_a_host_with_two_networks(fleet: Fleet) -> None:
    """Its server listens in one network, its exporter at the address of the inventory, in another."""
    fleet.hosts["gpu-1"].bind = "10.0.0.5"
    fleet.hosts["mon"].routes = {"10.0.0.5": "10.0.0.3", "gpu-1.example": "192.168.1.3"}
    fleet.run(firewall="set", monitoring=True)
    assert "tcp dport 9100 tcp flags & (syn | ack) == syn ip saddr { 10.0.0.3, 192.168.1.3 } accept" in fleet.rules(
        "gpu-1"
    )


def test_the_ports_of_a_span_are_its_own_hosts_alone_also_without_a_gateway(fleet: Fleet) -> None:
    fleet.hosts["gpu-1"].sources, fleet.hosts["gpu-2"].sources = "10.1.0.1", "10.1.0.9"
    context = fleet.run(firewall="set", span=True, gateway=False)
    assert fleet.played == [("load", ["gpu-1", "gpu-2"])]
    new = "tcp flags & (syn | ack) == syn"
    # The program of gpu-2 connects from its address in the span, its engine from the one that the route names.
    for port in ("        tcp dport 29501", "        tcp dport 29502", "ip daddr 10.1.0.1 tcp dport 32768-60999"):
        assert f"{port} {new} ip saddr {{ 10.1.0.2, 10.1.0.9 }} accept" in fleet.rules("gpu-1")
        assert f"{port} {new} reject with tcp reset" in fleet.rules("gpu-1")
    assert "29501" not in fleet.rules("gpu-2")
    assert f"ip daddr 10.1.0.2 tcp dport 32768-60999 {new} ip saddr {{ 10.1.0.1 }} accept" in fleet.rules("gpu-2")
    assert "8000" not in fleet.rules("gpu-1"), "anybody may use the server"
    assert str(serve(context, "gpu-1").text).endswith(
        "only the hosts of its model reach port 29501, 29502, 32768-60999"
    )
    fleet.run(firewall="set", span=True, gateway=False)
    assert fleet.played == []
    fleet.run(firewall="set", gateway=False)
    assert fleet.played == [("remove", ["gpu-1", "gpu-2"])], "they are in no span any more"


def test_rules_for_a_span_are_written_at_each_of_its_hosts(fleet: Fleet) -> None:
    context = fleet.run(span=True, gateway=False)
    assert fleet.played == []
    for name in ("gpu-1", "gpu-2"):
        (note,) = serve(context, name).notes
        assert note.startswith(
            f"no firewall was changed; so that only the hosts of its model can reach {name}: firstlight_firewall: set"
        )
        assert "tcp dport 32768-60999" in told(note)


def test_rules_that_lock_a_host_of_a_span_out_are_taken_back(fleet: Fleet) -> None:
    fleet.hosts["gpu-2"].locked_out = [fleet.hosts["gpu-1"]]
    context = fleet.run(firewall="set", span=True)
    assert fleet.played == [("load", ["gpu-1", "gpu-2"]), ("remove", ["gpu-1"])]
    assert "gpu-2 did not reach port 29501 any more; they were removed" in str(serve(context, "gpu-1").text)
    assert "firstlight_span_address" in str(serve(context, "gpu-1").hint)
