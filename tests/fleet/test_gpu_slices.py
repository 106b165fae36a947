"""The role that splits GPUs on a booted host, with a stand-in for nvidia-smi. No GPU has run it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.test_roles import played
from tests.install.fleet_site import make_fleet_site
from tests.install.test_gpu_slices import STAND_IN

pytestmark = pytest.mark.long(seconds=40)
PROGRAMS = "/usr/local/bin"


@pytest.fixture
def host(fleet: Fleet) -> Iterator[FleetHost]:
    [booted] = fleet.boot(1)
    gpus = booted.machine.root / f"{PROGRAMS.lstrip('/')}/gpus"
    gpus.mkdir()
    for gpu in (0, 1):
        (gpus / f"users{gpu}").write_text("<processes>\n</processes>\n")
    program = gpus.parent / "nvidia-smi"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    lose(booted)
    yield booted
    booted.remove()


def lose(host: FleetHost) -> None:
    """Leave the GPUs as a restart does since Hopper: without slices, with MIG off."""
    host.sh(f"cd {PROGRAMS}/gpus; for gpu in 0 1; do echo Disabled >mode$gpu; : >slices$gpu; done")


def test_slices_are_made_once_and_again_at_boot_with_a_stand_in_for_nvidia_smi(host: FleetHost, tmp_path: Path) -> None:
    site = make_fleet_site(tmp_path, host)
    site.plan(firstlight_slices={"layout": "0=3g.20gb,3g.20gb 1="})
    assert played(site, "drivers")
    assert host.sh(f"cat {PROGRAMS}/gpus/slices0").split() == ["3g.20gb", "3g.20gb"]
    assert not played(site, "drivers")

    lose(host)
    host.reboot()
    assert host.sh("systemctl is-active --wait firstlight-mig.service").strip() == "active"
    assert host.sh(f"cat {PROGRAMS}/gpus/mode0 {PROGRAMS}/gpus/slices0").split() == ["Enabled", "3g.20gb", "3g.20gb"]

    host.sh(f"echo '<pid>71</pid>' >{PROGRAMS}/gpus/users0")
    site.plan(firstlight_slices={"layout": "0="})
    refused = site.play("drivers")
    assert refused.status == "failed"
    assert "GPU 0 is in use, so its slices are not changed: pid 71" in f"{refused.text} {refused.hint}"


def test_a_run_makes_slices_and_plans_what_is_there_then_with_a_stand_in_for_nvidia_smi(
    host: FleetHost, tmp_path: Path
) -> None:
    # A container's drivers are not changed.
    host.sh("rm -f /run/systemd/container")
    firstlight = CommandRunner(tmp_path / "logs")
    services = {"chat": {"gpus": ["0:1"]}, "small": {"port": 8001}}
    inventory = str(
        host.inventory(
            tmp_path, firstlight_mig={0: ["3g.20gb", "2g.10gb"], 1: ["1g.5gb"]}, firstlight_services=services
        )
    )
    ended = firstlight("drivers", "-i", inventory, code=0)
    assert ended.summary["changed"] == 2, ended.output()
    texts = {one["phases"]["install"]["text"] for one in ended.summary["hosts"]}
    assert texts == {"slices of GPUs (0=3g.20gb,2g.10gb 1=1g.5gb)"}
    found = {one["name"].partition("@")[2]: one["stack"] for one in ended.summary["hosts"]}
    slices = {name: (stack["gpus"], stack["gpu_slice"]) for name, stack in found.items()}
    assert slices == {"chat": ([0], 1), "small": ([1], 0)}
    firstlight.changes_nothing("drivers", "-i", inventory)
