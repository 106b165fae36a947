"""The collection `firstlight.kit` on bare hosts, in somebody's own site: roles alone, and the whole site."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from playbooks.collection import build
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.root import BOOKWORM
from tests.fleet.serving import ask
from tests.fleet.vendor import NEW, PLACE, Signer, build_repository, build_suite, give_cards, signer
from tests.fleet.vendor_others import CONTAINER_ORIGIN, amdgpu_packages, container_packages, give_docker

pytestmark = pytest.mark.long(seconds=490)
PROGRAMS = Path(sys.executable).parent
KERNEL = os.uname().release


@pytest.fixture
def bare(fleet: Fleet) -> Iterator[FleetHost]:
    [bare] = fleet.boot(1, suite=BOOKWORM)
    yield bare
    bare.remove()


@pytest.fixture
def by(tmp_path: Path) -> Iterator[Signer]:
    with signer(tmp_path) as by:
        yield by


def give_mirror(host: FleetHost, folder: Path) -> None:
    shutil.copytree(folder / "mirror", host.machine.root / PLACE.lstrip("/"))


def test_the_roles_of_nvidia_alone_install_restart_and_hold_once(bare: FleetHost, by: Signer, tmp_path: Path) -> None:
    build_repository(tmp_path / "mirror", by, path="debian12/x86_64")
    give_mirror(bare, tmp_path)
    give_cards(bare)
    bare.sh(f"mkdir -p /lib/modules/{KERNEL}/kernel")
    site = made_site(tmp_path)
    mirror: dict[str, Any] = {"nvidia_driver_mirror": f"file://{PLACE}", "nvidia_driver_mirror_key": str(by.key)}
    toolkit = {"role": "firstlight.kit.cuda_toolkit", "cuda_toolkit_version": "13.0"}
    roles = ({"role": "firstlight.kit.nvidia_driver"}, {"role": "firstlight.kit.fabric_manager"}, toolkit)
    play_twice(site, bare, *roles, nvidia_driver_reboot=True, **mirror)
    held = bare.sh("apt-mark showhold").split()
    assert {"nvidia-open", "nvidia-driver-cuda", "nvidia-fabricmanager"} <= set(held)
    assert NEW in bare.sh("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    assert NEW in bare.sh("nv-fabricmanager --version")
    # Without the driver's role it asks the driver that runs.
    alone = play(site, bare, {"role": "firstlight.kit.fabric_manager"}, **mirror)
    assert "changed=0" in alone, alone


def test_the_role_of_the_container_toolkit_alone_installs_it_and_docker_learns_of_it_once(
    bare: FleetHost, by: Signer, tmp_path: Path
) -> None:
    give_docker(bare)
    build_repository(tmp_path / "mirror", by, path="deb/amd64", content=container_packages(), origin=CONTAINER_ORIGIN)
    give_mirror(bare, tmp_path)
    mirror = {"container_toolkit_mirror": f"file://{PLACE}", "container_toolkit_mirror_key": str(by.key)}
    play_twice(made_site(tmp_path), bare, {"role": "firstlight.kit.container_toolkit"}, **mirror)
    assert "1.19.1" in bare.sh("dpkg-query -W nvidia-container-toolkit")
    runtimes = json.loads(bare.sh("cat /etc/docker/daemon.json"))["runtimes"]
    assert runtimes["nvidia"]["path"] == "nvidia-container-runtime"
    assert bare.sh("ls /run/docker-reloaded")


def test_the_role_of_amd_alone_installs_the_driver_once(bare: FleetHost, by: Signer, tmp_path: Path) -> None:
    content = {"main": amdgpu_packages()}
    build_suite(tmp_path / "mirror", by, path="amdgpu/30.30.3/ubuntu", suite="noble", content=content)
    give_mirror(bare, tmp_path)
    # AMD has packages for Ubuntu.
    system = {"distribution": "Ubuntu", "distribution_version": "24.04", "architecture": "x86_64"}
    seen = {"ansible.builtin.set_fact": {**system, "cacheable": True}}
    mirror = {"rocm_mirror": f"file://{PLACE}", "rocm_mirror_key": str(by.key)}
    play_twice(made_site(tmp_path), bare, {"role": "firstlight.kit.rocm"}, before=[seen], **mirror)
    assert "amdgpu-dkms" in bare.sh("dpkg-query -W amdgpu-dkms")
    assert bare.sh("stat -c %G /dev/kfd") == "render\n"


def test_the_site_plans_installs_and_serves_from_their_inventory_once(
    bare: FleetHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is staged before; nothing but Ansible changes the host."""
    site = made_site(tmp_path)
    firstlight = CommandRunner(tmp_path / "logs")
    monkeypatch.setenv("PATH", f"{tool(tmp_path)}:{os.environ['PATH']}")
    monkeypatch.setenv("FIRSTLIGHT_LOGS", str(firstlight.logs))
    inventory = str(bare.inventory(site, user=SUDO_WITHOUT_PASSWORD, ansible_become=True))
    # As the guide has it: the environment alone.
    roles = [{"role": f"firstlight.kit.{name}"} for name in ("plan", "base", "environment")]
    (site / "environment.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": roles}]))
    ansible("playbook", site, "-i", inventory, "environment.yml")
    assert bare.sh("ls /opt/firstlight/envs/*/.complete")
    assert bare.sh("find /opt/firstlight/releases /opt/firstlight/models -mindepth 1") == ""
    words = ("-i", inventory, "firstlight.kit.site")
    first = ansible("playbook", site, *words)
    assert "failed=0" in first, first
    second = ansible("playbook", site, *words)
    assert "changed=0" in second, second
    assert bare.sh("find /var/tmp/firstlight-* -name '*.whl'; true").strip() == ""
    # It waits for the service that the site has started, and adds the watchdog.
    ended = firstlight("provision", "-i", inventory, code=0)
    changes = map(json.loads, (ended.run / "changes.jsonl").read_text().splitlines())
    played = {each["playbook"] for each in changes if each["changed"] and "playbook" in each}
    assert played == {"health_agent"}, ended.output()
    assert ask(bare)["with"][0] == 200


def tool(folder: Path) -> Path:
    """Return a folder with the program `firstlight`, as its package installs it."""
    program = folder / "bin/firstlight"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m provision "$@"\n')
    program.chmod(0o755)
    return program.parent


def made_site(folder: Path) -> Path:
    """Return a folder in which the collection is installed."""
    site = folder / "site"
    ansible("galaxy", site, "collection", "install", "--offline", "-p", str(site), str(build(folder)))
    return site


def play(
    site: Path, host: FleetHost, *roles: dict[str, Any], before: Sequence[dict[str, Any]] = (), **variables: Any
) -> str:
    """Run roles on a host, after tasks and with variables of the play, and return what Ansible printed."""
    plays = [{"hosts": "all", "gather_facts": False, "vars": variables, "pre_tasks": [*before], "roles": [*roles]}]
    (site / "drivers.yml").write_text(yaml.safe_dump(plays))
    return ansible("playbook", site, "-i", str(host.inventory(site)), "drivers.yml")


def play_twice(site: Path, host: FleetHost, *roles: dict[str, Any], **given: Any) -> None:
    """Run roles on a host as `play` does, twice: the second time nothing changes."""
    play(site, host, *roles, **given)
    second = play(site, host, *roles, **given)
    assert "changed=0" in second, second


def ansible(program: str, site: Path, *words: str) -> str:
    """Run a program of Ansible in a site, which holds the only collections that it sees, and return what it printed."""
    site.mkdir(exist_ok=True)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(site), "ANSIBLE_PIPELINING": "1", "NO_COLOR": "1"}
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
