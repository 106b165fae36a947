"""Hosts that are only a gateway are probed and take no part in serving."""

import json
from pathlib import Path

import pytest

from provision.features.gateway import step as gateway
from provision.run.context import RunOptions
from provision.run.results import ProbedHosts
from tests.fleet.command_runner import CommandRunner
from tests.pipeline.local_context import local_context

pytestmark = pytest.mark.slow


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Write an inventory with this machine as a host that serves, and again as a host that is only a gateway."""
    local = {"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "prefix")}
    groups = {"gateway": {"hosts": {"gate": local}}, "serving": {"hosts": {"here": local}}}
    path = tmp_path / "hosts.yml"
    path.write_text(json.dumps({"all": {"children": groups}}))
    return path


def test_a_gateway_is_not_planned(inventory: Path, tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("plan", "-i", str(inventory), "--json")
    assert done.code == 0, done.output()
    document = json.loads(done.out)
    assert (document["hosts"], document.get("missing")) == (["here"], None)
    summary = json.loads((tmp_path / "logs/queries/latest/summary.json").read_text())
    assert [host["phases"].keys() for host in summary["hosts"] if host["name"] == "gate"] == [{"probe"}]


def test_a_gateway_without_serving_hosts_is_refused_before_anything_is_done(inventory: Path, tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("gateway", "-i", str(inventory))
    assert done.code == 2, done.output()
    assert "gateway `gate` has nothing to pass requests to" in done.out
    assert "./firstlight provision" in done.out
    assert not (tmp_path / "prefix/gateway").exists()


def test_a_limit_to_a_gateway_means_the_gateway(inventory: Path, tmp_path: Path) -> None:
    """It has to know the whole inventory, so it is set up as `./firstlight gateway` does it."""
    done = CommandRunner(tmp_path / "logs")("provision", "-i", str(inventory), "--limit", "gate")
    assert done.code == 2, done.output()
    assert "gateway `gate` has nothing to pass requests to" in done.out
    assert {host["name"] for host in done.summary["hosts"]} == {"here", "gate"}


def test_a_run_over_a_part_of_the_inventory_does_not_change_a_gateway_in_it(tmp_path: Path) -> None:
    context = local_context(tmp_path, "hg", options=RunOptions(limited=True))
    gate = context.inventory.hosts[1].model_copy(update={"groups": ("gateway",)})
    context.inventory = context.inventory.model_copy(update={"hosts": (context.inventory.hosts[0], gate)})
    gateway.apply(context, ProbedHosts())
    result = context.outcomes.results["g"]["serve"]
    assert (result.status, result.hint) == ("skipped", "set it up: ./firstlight gateway")
