"""Rollback to the previous environment, stop, and complete removal."""

import json
from pathlib import Path

import pytest

from tests.install.conftest import Site, make_site, newer_wheels

pytestmark = pytest.mark.long(seconds=30)


STEPS = [
    "Find a Python on the host",
    "Switch back to an earlier release",
    "Verify that the environment runs and that its service is started",
    "Record the state that was reached",
]
"""Of a rollback, however large the environments are: it copies and fetches nothing. With a service, its stop and its start are added."""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str, str]:
    """Install three times with other locks and units; return the names of the previous and of the live environment."""
    site = make_site(tmp_path_factory.mktemp("twice"))
    names = []
    for number, wheels in enumerate((site.wheels[:1], site.wheels, newer_wheels(site))):
        site.use_wheels(wheels)
        unit = f"[Service]\nExecStart=/bin/number{number}\n"
        site.plan(firstlight_service={**site.variables["firstlight_service"], "unit": unit})
        site.send()
        result = site.play()
        assert result.status == "ok", result
        names.append(site.environment.name)
    return site, names[1], names[2]


def unit_of(site: Site) -> str:
    return Path(site.variables["firstlight_service"]["unit_path"]).read_text()


def test_only_the_live_and_the_previous_environment_are_kept(twice: tuple[Site, str, str]) -> None:
    site, *names = twice
    assert sorted(path.name for path in (site.prefix / "envs").iterdir() if path.is_dir()) == sorted(names)


def test_rollback_brings_back_environment_unit_and_state(twice: tuple[Site, str, str]) -> None:
    site, first, second = twice
    key = (site.prefix / "etc" / "service.env").read_text()
    result = site.play("rollback")
    assert (result.status, result.changed) == ("ok", True), result
    rows = site.latest.path("install/tasks.jsonl").read_text().splitlines()
    assert [row["task"] for row in map(json.loads, rows) if row["status"] != "skipped"] == STEPS
    assert (site.prefix / "current").resolve().name == first
    assert (site.prefix / "previous").resolve().name == second
    assert "/bin/number1" in unit_of(site)
    assert json.loads((site.prefix / "state.json").read_text())["environment"] == first
    assert (site.prefix / "etc" / "service.env").read_text() == key
    assert site.play("rollback").status == "ok"
    assert (site.prefix / "current").resolve().name == second
    assert "/bin/number2" in unit_of(site)


def test_uninstall_leaves_nothing_but_what_it_lists(site: Site) -> None:
    site.send()
    assert site.play().status == "ok"
    (site.prefix / "installed-packages.txt").write_text("libexample1\n")
    result = site.play("uninstall")
    assert (result.status, result.changed) == ("ok", True), result
    assert any("libexample1" in line for line in result.evidence)
    left = [path for path in site.prefix.parent.rglob("*") if path.is_file() and site.incoming not in path.parents]
    assert left == []
    again = site.play("uninstall")
    assert (again.status, again.changed) == ("ok", False), again
