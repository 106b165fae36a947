"""Hosts that only monitor take no part in serving; monitoring is refused where it cannot run."""

import json
from pathlib import Path

import pytest

from provision.core.models.facts import HostFacts, OperatingSystem
from provision.core.unit_set import UnitSet
from provision.features.monitoring import step
from provision.features.monitoring.step import why_not
from provision.run import playbooks
from provision.run.context import LeftOut, RunContext
from provision.run.results import ProbedHosts
from tests.features.monitoring.hosts import host
from tests.fleet.command_runner import CommandRunner
from tests.pipeline.local_context import local_context, own_paths
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


def test_a_host_that_is_left_out_and_cannot_have_an_exporter_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = local_context(tmp_path, "mdr")
    hosts = tuple(host(name, "monitoring" if name == "m" else "gpus") for name in "mdr")
    context.inventory = context.inventory.model_copy(update={"hosts": hosts})
    context.outcomes.left_out = dict.fromkeys("dr", LeftOut("", "", {}))
    sets: dict[str, list[UnitSet]] = {}
    monkeypatch.setattr(playbooks, "acquire_locks", lambda *given: given[-1])
    monkeypatch.setattr(RunContext, "run_on_hosts", lambda *_, **__: {"m": ()})
    for name in ("ask_served", "ask_card_ports"):
        monkeypatch.setattr(step, name, lambda *_: {})
    monkeypatch.setattr(step, "play_differing", lambda *given: sets.update(given[-1]) or {})
    found = {"m": system(), "d": system(), "r": system(package_manager="dnf")}
    root = own_paths(tmp_path).model_copy(update={"root": True})
    step.apply(context, ProbedHosts(found, dict.fromkeys(found, root)))
    nodes = json.loads(sets["m"][1].files["node.json"])
    assert [one["labels"]["host"] for one in nodes] == ["d", "m"]


def test_where_monitoring_runs() -> None:
    assert why_not(system(), root=True) is None
    assert why_not(system(), root=False) == "the run has no root there"
    assert why_not(system(init="sh"), root=True) == "it has no systemd"
    rocky = system(package_manager="dnf", pretty_name="Rocky Linux 9.5")
    assert why_not(rocky, root=True) == "it runs Rocky Linux 9.5"
