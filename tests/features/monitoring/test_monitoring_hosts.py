"""Hosts that only monitor take no part in serving; monitoring is refused where it cannot run."""

import json
from pathlib import Path

import pytest

from provision.core.models.facts import HostFacts, OperatingSystem
from provision.features.monitoring.step import why_not
from tests.fleet.command_runner import CommandRunner
from tests.report.sample import facts


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Write an inventory with this machine as a host that serves, and again as a host that only monitors."""
    local = {"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "prefix")}
    groups = {"monitoring": {"hosts": {"mon": local}}, "serving": {"hosts": {"here": local}}}
    path = tmp_path / "hosts.yml"
    path.write_text(json.dumps({"all": {"children": groups}}))
    return path


@pytest.mark.slow
def test_a_monitoring_host_is_not_planned(inventory: Path, tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("plan", "-i", str(inventory), "--json")
    assert done.code == 0, done.output()
    document = json.loads(done.out)
    assert (document["hosts"], document.get("missing")) == (["here"], None)


@pytest.mark.slow
def test_an_inventory_without_monitoring_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(json.dumps({"all": {"hosts": {"here": {"ansible_connection": "local"}}}}))
    done = CommandRunner(tmp_path / "logs")("monitoring", "-i", str(path))
    assert done.code == 2
    assert "has no group `monitoring`" in done.err
    assert "docs/guides/monitoring.md" in done.err


@pytest.mark.slow
def test_a_limit_to_a_monitoring_host_means_monitoring_of_the_whole_inventory(inventory: Path, tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("provision", "-i", str(inventory), "--limit", "mon")
    assert done.code == 2, done.output()
    assert done.host("here")["state"] == "probed"
    # This machine has no systemd; a test on booted hosts sets monitoring up.
    assert "it has no systemd" in done.host("mon")["phases"]["serve"]["text"]


def system(**values: str) -> HostFacts:
    known = {"id": "debian", "package_manager": "apt", "init": "systemd"} | values
    return facts("h").model_copy(update={"os": OperatingSystem.model_validate(known)})


def test_where_monitoring_runs() -> None:
    assert why_not(system(), root=True) is None
    assert why_not(system(), root=False) == "the run has no root there"
    assert why_not(system(init="sh"), root=True) == "it has no systemd"
    rocky = system(package_manager="dnf", pretty_name="Rocky Linux 9.5")
    assert why_not(rocky, root=True) == "it runs Rocky Linux 9.5"
