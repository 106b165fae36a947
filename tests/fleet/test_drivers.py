"""Drivers on a real host: a bare one with eight cards, its packages, a real restart, and what goes wrong on the way.

The tests of this file are one story, told in order: each goes on where the one before stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.vendor import NEW, PLACE, build_repository, give_cards, signer
from tests.fleet.walks import Walker

pytestmark = pytest.mark.fleet

KERNEL = os.uname().release
OURS = "/etc/apt/sources.list.d/firstlight-nvidia-cuda.sources"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("vendor")
    with signer(folder) as by:
        build_repository(folder / "mirror", by)
        yield by.key


@pytest.fixture(scope="module")
def host(fleet: Fleet, key: Path) -> Iterator[FleetHost]:
    [booted] = fleet.boot(1)
    give_cards(booted)
    command = ["cp", "-r", str(key.parent / "mirror"), str(booted.machine.root / PLACE.lstrip("/"))]
    subprocess.run(command, check=True)
    booted.sh(f"mkdir -p /lib/modules/{KERNEL}/kernel /lib/modules/6.1.0-9-amd64/kernel")
    yield booted
    booted.remove()


@pytest.fixture(scope="module")
def firstlight(tmp_path_factory: pytest.TempPathFactory) -> Walker:
    return Walker(tmp_path_factory.mktemp("drivers") / "logs")


@pytest.fixture(scope="module")
def inventory(host: FleetHost, key: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("inventory")
    settings = {"firstlight_driver_repository": f"file://{PLACE}", "firstlight_driver_key": str(key)}
    return str(host.inventory(folder, **settings))


def packages(host: FleetHost) -> dict[str, tuple[str, str]]:
    """Version and state (`hi`: to be held, installed) of every package of the driver's."""
    form = "${Package} ${Version} ${db:Status-Abbrev}\\n"
    lines = host.sh(f"dpkg-query -W -f '{form}'").splitlines()
    named = [line.split() for line in lines if "nvidia" in line or "cuda" in line]
    return {row[0]: (row[1].partition("-")[0], row[2]) for row in named if row[-1][1] == "i"}


def test_without_consent_a_bare_host_gets_its_driver_and_is_told_what_comes_next(
    firstlight: Walker, host: FleetHost, inventory: str
) -> None:
    ended = firstlight("provision", "-i", inventory)
    assert ended.code == 1, ended.told()
    [result] = [room for room in ended.host(host.name)["rooms"] if room["room"] == "install"]
    assert f"driver {NEW} is installed and runs after a restart" in result["text"]
    assert f"./firstlight provision -i {inventory} --reboot" in result["hint"]
    assert not list((ended.run / "stage").glob("*"))
    there = packages(host)
    assert {"nvidia-open", "nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"} <= there.keys()
    # A newer branch is on offer and would satisfy every dependency: pin and hold keep it away.
    assert set(there.values()) == {(NEW, "hi")}
    assert "Inst" not in host.sh("apt-get -s dist-upgrade")
    assert host.sh(f"ls -d /usr/src/linux-headers-{KERNEL}")
    assert "blacklist nouveau" in host.sh("cat /etc/modprobe.d/firstlight-nvidia.conf")


def test_with_consent_it_is_restarted_and_the_probe_sees_the_planned_driver(
    firstlight: Walker, host: FleetHost, inventory: str
) -> None:
    before = host.sh("cat /proc/sys/kernel/random/boot_id")
    ended = firstlight("drivers", "-i", inventory, "--reboot")
    assert ended.code == 0, ended.told()
    assert host.sh("cat /proc/sys/kernel/random/boot_id") != before
    facts = json.loads((ended.run / f"facts/{host.name}.json").read_text())["nvidia"]
    assert (facts["driver_version"], facts["fabric_manager_version"]) == (NEW, NEW)
    assert (facts["fabric_manager_state"], facts["fabric_state"]) == ("active", "Completed (Success)")
    assert len(facts["gpus"]) == 8
    plan = json.loads((ended.run / "plan.json").read_text())["classes"][0]["stack"]
    assert (plan["driver"]["action"], plan["driver"]["version"]) == ("keep", NEW)
    assert ended.summary["changed"] == 1
    assert packages(host)["nvidia-fabricmanager"] == (NEW, "hi")
    assert host.sh("systemctl is-active nvidia-persistenced").strip() == "active"
