"""Roles for packages beside a driver, on a real host with signed local repositories in the vendors' layout for Ubuntu 24.04."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import Amd, HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.stack import CudaCompat, Stack
from provision.phases.install.drivers import driver_work
from tests.drivers.test_work import INSTALL_ROCM, MI300X, UPGRADE_ROCM, facts, stack
from tests.fleet.hosts import FleetHost
from tests.fleet.test_roles import played
from tests.fleet.vendor import PLACE, build_repository, build_suite, signer
from tests.fleet.vendor_others import (
    CONTAINER_ORIGIN,
    amdgpu_packages,
    container_packages,
    distribution_packages,
    give_docker,
    rocm_packages,
    ubuntu_packages,
)
from tests.install.fleet_site import FleetSite, make_fleet_site

pytestmark = pytest.mark.long(seconds=250)

COMPAT = CudaCompat(cuda="13.0", package="cuda-compat-13-0", folder="/usr/local/cuda-13.0/compat")
OURS = "firstlight-amdgpu firstlight-rocm firstlight-nvidia-cuda firstlight-nvidia-container-toolkit"
PACKAGES = "rocm rocm-hip-runtime rocminfo hipcc amdgpu-dkms amdgpu-dkms-firmware dkms cuda-compat-13-0 nvidia-container-toolkit nvidia-container-toolkit-base"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("vendors")
    with signer(folder) as by:
        mirror = folder / "mirror"
        build_repository(mirror, by, path="ubuntu2404/x86_64", content=ubuntu_packages())
        build_repository(mirror, by, path="container", content=container_packages(), origin=CONTAINER_ORIGIN)
        build_suite(mirror, by, path="amdgpu/30.30.3/ubuntu", suite="noble", content={"main": amdgpu_packages()})
        build_suite(mirror, by, path="rocm/apt/7.2.2", suite="noble", content={"main": rocm_packages()})
        old = {"main": amdgpu_packages("1:6.12.12.60401-2164967.24.04")}
        build_suite(mirror, by, path="amdgpu/6.4.1/ubuntu", suite="noble", content=old)
        old = {"main": rocm_packages("6.4.1", "60401-83~24.04")}
        build_suite(mirror, by, path="rocm/apt/6.4.1", suite="noble", content=old)
        content = {"main": distribution_packages()}
        build_suite(mirror, by, path="ubuntu", suite="noble", content=content, origin="Ubuntu")
        yield by.key


@pytest.fixture
def host(pair: list[FleetHost], key: Path) -> Iterator[FleetHost]:
    """A host with the mirror and the visible parts of Docker; tests leave it unchanged."""
    there = pair[1]
    mirror = there.machine.root / PLACE.lstrip("/")
    subprocess.run(["cp", "-r", str(key.parent / "mirror"), str(mirror)], check=True)
    give_docker(there)
    distribution = f"deb [signed-by=/usr/share/keyrings/distribution.asc] file://{PLACE}/ubuntu noble main\n"
    shutil.copy(key, there.machine.root / "usr/share/keyrings/distribution.asc")
    (there.machine.root / "etc/apt/sources.list.d/distribution.list").write_text(distribution)
    yield there
    lists = " ".join(f"/etc/apt/sources.list.d/{name}.sources /usr/share/keyrings/{name}.asc" for name in OURS.split())
    there.sh(
        f"systemctl stop docker; dpkg --purge --force-all {PACKAGES} >/dev/null 2>&1; "
        f"rm -rf {PLACE} {lists} /etc/apt/preferences.d/firstlight-* /etc/apt/sources.list.d/distribution.list /etc/apt/sources.list.d/amd-6.4.1.list /etc/apt/sources.list.d/container.list /etc/systemd/system/docker.service /etc/docker /usr/bin/dockerd /dev/kfd /run/docker-reloaded; "
        "systemctl daemon-reload; apt-get -qq update || true",
        timeout_s=180,
    )


@pytest.fixture
def site(host: FleetHost, key: Path, tmp_path: Path) -> FleetSite:
    amd = facts(pci_gpus=(MI300X,), nvidia=None, amd=Amd())
    variables = work(amd, stack(None, variant="rocm7.2", rocm=INSTALL_ROCM), key) | work(
        facts(), stack(cuda_compat=COMPAT), key
    )
    # A mirror of drivers never has the container toolkit.
    toolkit = variables["firstlight_container_toolkit"]["repository"]
    toolkit |= {"uri": f"file://{PLACE}/container/", "key": str(key), "fingerprint": None}
    made = make_fleet_site(tmp_path, host)
    made.plan(**variables)
    return made


def work(seen: HostFacts, planned: Stack, key: Path) -> dict[str, Any]:
    settings = Settings(container_toolkit=True, driver_repository=f"file://{PLACE}", driver_key=str(key))
    planner = Host(name="gpu-1", connection=Connection(kind="local"), settings=settings)
    return driver_work(planner, seen, planned).ansible_vars()


def test_rocm_the_container_toolkit_and_compatibility_libraries_are_installed_once(
    host: FleetHost, site: FleetSite
) -> None:
    assert played(site, "drivers")
    installed = host.sh("dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n'").splitlines()
    assert {f"{name} ii " for name in PACKAGES.split()} <= set(installed)
    assert host.sh("stat -c %G /dev/kfd") == "render\n"
    # The distribution's own packages are newer and would make the installation unsolvable.
    assert "70202" in host.sh("dpkg-query -W -f '${Version}' rocminfo")
    runtimes = json.loads(host.sh("cat /etc/docker/daemon.json"))["runtimes"]
    assert runtimes["nvidia"]["path"] == "nvidia-container-runtime"
    assert host.sh("ls /run/docker-reloaded")
    assert host.sh(f"ls {COMPAT.folder}") == "libcuda.so.1\n"
    # The repository of the libraries has newer drivers than the host's.
    assert "Candidate: (none)" in host.sh("apt-cache policy nvidia-open")
    source = host.sh("cat /etc/apt/sources.list.d/firstlight-rocm.sources")
    assert f"URIs: file://{PLACE}/rocm/apt/7.2.2\nSuites: noble\nComponents: main\n" in source
    assert not played(site, "drivers")
    host.sh("rm /run/docker-reloaded")
    site.plan(uninstall_drivers=True)
    removed = site.play("uninstall")
    assert (removed.status, removed.changed, removed.evidence) == ("ok", True, ()), removed
    kept = host.sh("dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n'").splitlines()
    assert {f"{name} ii " for name in PACKAGES.split()} & set(kept) == set()
    assert host.sh("ls /etc/docker /run/docker-reloaded") == "/run/docker-reloaded\n\n/etc/docker:\n"
    assert host.sh("find /etc /usr/share/keyrings /var/lib -name '*firstlight*'") == ""
    assert not played(site, "uninstall")


def test_an_entry_of_the_host_for_the_same_repository_is_used(host: FleetHost, site: FleetSite, tmp_path: Path) -> None:
    """Its key is named by another path: apt would refuse an entry of our own beside it."""
    entry = f"deb [signed-by=/usr/share/keyrings/distribution.asc] file://{PLACE}/container /\n"
    (host.machine.root / "etc/apt/sources.list.d/container.list").write_text(entry)
    made = make_fleet_site(tmp_path / "toolkit", host)
    made.plan(firstlight_container_toolkit=site.variables["firstlight_container_toolkit"])
    assert played(made, "drivers")
    assert "1.19.1" in host.sh("dpkg-query -W nvidia-container-toolkit")
    assert host.sh("ls /etc/apt/sources.list.d /usr/share/keyrings | grep firstlight || true") == ""
    assert not played(made, "drivers")


def test_rocm_and_its_driver_are_upgraded_in_place_once(host: FleetHost, key: Path, tmp_path: Path) -> None:
    sources = host.machine.root / "etc/apt/sources.list.d/amd-6.4.1.list"
    signed = "[signed-by=/usr/share/keyrings/distribution.asc]"
    folders = ("amdgpu/6.4.1/ubuntu", "rocm/apt/6.4.1")
    sources.write_text("".join(f"deb {signed} file://{PLACE}/{folder} noble main\n" for folder in folders))
    host.sh("apt-get -qq update && apt-get -qq -y install rocm=6.4.1.60401-83~24.04 rocminfo=1.0.0.60401-83~24.04 "
            "hipcc=1.1.1.60401-83~24.04 amdgpu-dkms && touch /dev/kfd && chgrp render /dev/kfd", timeout_s=120)  # fmt: skip
    there = Amd(driver_version="6.12.12", rocm_version="6.4.1")
    amd = facts(pci_gpus=(MI300X,), nvidia=None, amd=there, kernel_modules=("amdgpu",))
    made = make_fleet_site(tmp_path, host)
    variables = work(amd, stack(None, variant="rocm7.2", rocm=UPGRADE_ROCM), key)
    made.plan(**{name: value for name, value in variables.items() if name != "firstlight_container_toolkit"})
    assert played(made, "drivers")
    installed = host.sh("dpkg-query -W rocm rocm-hip-runtime rocminfo hipcc amdgpu-dkms").splitlines()
    assert {line.partition("-83")[0].partition("-86")[0].partition("-2278356")[0] for line in installed} == {
        "amdgpu-dkms\t1:6.16.13.30300300",
        "hipcc\t1.1.1.70202",
        "rocm\t7.2.2.70202",
        "rocm-hip-runtime\t7.2.2.70202",
        "rocminfo\t1.0.0.70202",
    }
    assert not played(made, "drivers")
