"""Hosts that only monitor take no part in serving; monitoring is refused where it cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.core.models.facts import HostFacts, OperatingSystem
from provision.pipeline.monitoring import why_not
from provision.pipeline.unit_files import has
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
def test_a_run_over_a_part_of_the_inventory_does_not_change_monitoring(inventory: Path, tmp_path: Path) -> None:
    done = CommandRunner(tmp_path / "logs")("provision", "-i", str(inventory), "--limit", "mon")
    assert done.code == 0, done.output()
    assert done.host("mon")["phases"]["serve"]["status"] == "skipped"
    assert "--limit names a part of the inventory" in done.host("mon")["phases"]["serve"]["text"]


def system(**values: str) -> HostFacts:
    known = {"id": "debian", "package_manager": "apt", "init": "systemd"} | values
    return facts("h").model_copy(update={"os": OperatingSystem.model_validate(known)})


def test_where_monitoring_runs() -> None:
    assert why_not(system(), root=True) is None
    assert why_not(system(), root=False) == "the run has no root there"
    assert why_not(system(init="sh"), root=True) == "it has no systemd"
    rocky = system(package_manager="dnf", pretty_name="Rocky Linux 9.5")
    assert why_not(rocky, root=True) == "it runs Rocky Linux 9.5"


FILE, UNIT, TIMER = "prometheus.yml", "a.service", "b.timer"
SUMS = {
    # `printf text | sha256sum`, so that the expected sums come from elsewhere
    "one": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    "two": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    "three": "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f",
}
SAID = "\n".join(
    [
        f"{SUMS['one']}  {FILE}",
        f"{SUMS['two']}  /etc/systemd/system/{UNIT}",
        f"{SUMS['three']}  /etc/systemd/system/{TIMER}",
        "enabled",
        "static",
        "active",
        "inactive",
    ]
)


@pytest.mark.parametrize(
    ("said", "is_there"),
    [
        (SAID, True),
        (SAID.replace(SUMS["one"], SUMS["two"]), False),
        (SAID.replace("enabled", "disabled"), False),
        (SAID.replace("\nactive", "\nfailed"), False),
        (SAID.replace("inactive", "failed"), True),
        ("", False),
        ("enabled\nstatic\nactive\ninactive", False),
    ],
)
def test_files_and_units_of_a_host_are_compared(said: str, is_there: bool) -> None:
    assert has(said, {FILE: "one"}, {UNIT: "two", TIMER: "three"}, {UNIT}) is is_there
