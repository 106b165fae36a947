"""The collection `firstlight.kit` on bare hosts, in somebody's own site: the driver role alone, and the whole site from a plan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from playbooks.collection import build
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.root import BOOKWORM
from tests.fleet.serving import ask, wait_until_healthy
from tests.fleet.vendor import NEW, PLACE, build_repository, give_cards, signer

pytestmark = pytest.mark.long(seconds=120)
PROGRAMS = Path(sys.executable).parent
KERNEL = os.uname().release


@pytest.fixture
def key(tmp_path: Path) -> Iterator[Path]:
    with signer(tmp_path) as by:
        build_repository(tmp_path / "mirror", by, path="debian12/x86_64")
        yield by.key


@pytest.fixture
def host(fleet: Fleet, key: Path) -> Iterator[FleetHost]:
    [booted] = fleet.boot(1, suite=BOOKWORM)
    give_cards(booted)
    command = ["cp", "-r", str(key.parent / "mirror"), str(booted.machine.root / PLACE.lstrip("/"))]
    subprocess.run(command, check=True)
    booted.sh(f"mkdir -p /lib/modules/{KERNEL}/kernel")
    yield booted
    booted.remove()


def test_the_driver_role_alone_installs_restarts_and_holds_once(host: FleetHost, key: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    ansible("galaxy", site, "collection", "install", "--offline", "-p", str(site), str(build(tmp_path)))
    role = {
        "role": "firstlight.kit.nvidia_driver",
        "nvidia_driver_mirror": f"file://{PLACE}",
        "nvidia_driver_mirror_key": str(key),
        "nvidia_driver_reboot": True,
    }
    (site / "drivers.yml").write_text(yaml.safe_dump([{"hosts": "all", "roles": [role]}]))
    inventory = str(host.inventory(site))
    first = ansible("playbook", site, "-i", inventory, "drivers.yml")
    assert "failed=0" in first, first
    held = host.sh("apt-mark showhold").split()
    assert {"nvidia-open", "nvidia-driver-cuda"} <= set(held)
    assert NEW in host.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    second = ansible("playbook", site, "-i", inventory, "drivers.yml")
    assert "changed=0" in second, second


def test_the_site_alone_installs_and_serves_what_was_staged(fleet: Fleet, tmp_path: Path) -> None:
    """Firstlight plans and fetches; nothing but Ansible changes the host."""
    [bare] = fleet.boot(1)
    site = tmp_path / "site"
    inventory = str(bare.inventory(site, user=SUDO_WITHOUT_PASSWORD, ansible_become=True))
    firstlight = CommandRunner(tmp_path / "logs")
    staged = firstlight("stage", "-i", inventory)
    assert staged.code == 0, staged.output()
    assert bare.sh("ls -d /opt/firstlight 2>/dev/null; true").strip() == ""
    ansible("galaxy", site, "collection", "install", "--offline", "-p", str(site), str(build(tmp_path)))
    words = ("-i", inventory, "firstlight.kit.site", "-e", f"plan_run={firstlight.logs}/latest")
    first = ansible("playbook", site, *words)
    assert "failed=0" in first, first
    wait_until_healthy(bare)
    assert ask(bare)["with"][0] == 200
    second = ansible("playbook", site, *words)
    assert "changed=0" in second, second
    assert bare.sh("find /var/tmp/firstlight-* -name '*.whl'; true").strip() == ""
    ended = firstlight("provision", "-i", inventory)
    assert ended.code == 0, ended.output()


def ansible(program: str, site: Path, *words: str) -> str:
    """Run a program of Ansible in a site, which holds the only collections that it sees, and return what it printed."""
    site.mkdir(exist_ok=True)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(site), "NO_COLOR": "1"}
    done = subprocess.run(
        [str(PROGRAMS / f"ansible-{program}"), *words],
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
