"""More of the vendors' packages: NVIDIA's for Ubuntu, where a branch is part of most names, AMD's, and the container toolkit's."""

from collections.abc import Iterator

from tests.fleet.hosts import FleetHost
from tests.fleet.vendor import NEW, OLD, Package

MODPROBE = """#!/bin/sh
getent group render >/dev/null || groupadd --system render
touch /dev/kfd && chgrp render /dev/kfd
"""
"""A substitute for the kernel, which has no such card: the effect of loading the driver."""
NVIDIA_CTK = """#!/bin/sh
if [ "$1" = --version ]; then
    echo "NVIDIA Container Toolkit CLI version 1.19.1"
else
    mkdir -p /etc/docker
    echo '{"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}' >/etc/docker/daemon.json
fi
"""
DOCKER = """[Unit]
Description=A substitute for Docker
[Service]
ExecStart=/bin/sleep infinity
ExecReload=/bin/touch /run/docker-reloaded
"""


def ubuntu_packages() -> Iterator[Package]:
    """NVIDIA's repository for Ubuntu: two branches, both flavours of the modules."""
    for version in (OLD, NEW):
        yield from _ubuntu_driver(version)
    yield Package("dkms", "3.0.11-1ubuntu13")
    libraries = {"usr/local/cuda-13.0/compat/libcuda.so.1": "nothing\n"}
    yield Package("cuda-compat-13-0", "580.178.04-0ubuntu1", files=libraries)


def _ubuntu_driver(version: str) -> Iterator[Package]:
    branch, revision = version.partition(".")[0], f"{version}-0ubuntu1"
    yield Package(f"libnvidia-compute-{branch}", revision, conflicts="libnvidia-compute", provides="libnvidia-compute")
    for flavour in ("-open", ""):
        source = f"nvidia-kernel-source-{branch}{flavour}"
        kernel, whole = f"nvidia-dkms-{branch}{flavour}", f"nvidia-driver-{branch}{flavour}"
        yield Package(source, revision, conflicts="nvidia-kernel-source", provides="nvidia-kernel-source")
        yield Package(
            kernel, revision, f"dkms, {source}", conflicts="nvidia-dkms-kernel", provides="nvidia-dkms-kernel"
        )
        needs = f"{kernel} (= {revision}), libnvidia-compute-{branch} (= {revision})"
        yield Package(whole, revision, needs, conflicts="nvidia-driver-binary", provides="nvidia-driver-binary")
    yield Package(f"nvidia-open-{branch}", revision, f"nvidia-driver-{branch}-open (>= {version})")
    yield Package(f"cuda-drivers-{branch}", revision, f"nvidia-driver-{branch} (>= {version})")
    yield Package("nvidia-open", revision, f"nvidia-open-{branch} (>= {version})")
    yield Package("cuda-drivers", revision, f"cuda-drivers-{branch} (>= {version})")
    yield Package(f"nvidia-fabricmanager-{branch}", revision)


CONTAINER_ORIGIN = "https://nvidia.github.io/libnvidia-container/stable"
"""How the Release file of the container toolkit's repository calls it."""


def container_packages() -> Iterator[Package]:
    """The container toolkit's repository."""
    yield Package("nvidia-container-toolkit-base", "1.19.1-1", files={"usr/bin/nvidia-ctk": NVIDIA_CTK})
    yield Package("nvidia-container-toolkit", "1.19.1-1", "nvidia-container-toolkit-base (= 1.19.1-1)")


def give_docker(host: FleetHost) -> None:
    """Show the parts of Docker that the container toolkit's role looks at; a reload leaves a file."""
    (host.machine.root / "etc/systemd/system/docker.service").write_text(DOCKER)
    host.sh("touch /usr/bin/dockerd; systemctl daemon-reload; systemctl start docker")


def amdgpu_packages(version: str = "1:6.16.13.30300300-2278356.24.04") -> Iterator[Package]:
    """AMD's kernel driver. On real hosts modprobe belongs to the system."""
    yield Package("amdgpu-dkms-firmware", version)
    needs = f"dkms, amdgpu-dkms-firmware (= {version})"
    yield Package("amdgpu-dkms", version, needs, files={"usr/local/sbin/modprobe": MODPROBE})
    yield Package("dkms", "3.0.11-1ubuntu13")


def rocm_packages(version: str = "7.2.2", build: str = "70202-86~24.04") -> Iterator[Package]:
    """ROCm itself. Its packages require one another in their exact version."""
    yield Package("rocminfo", f"1.0.0.{build}")
    yield Package("hipcc", f"1.1.1.{build}")
    needs = f"rocminfo (= 1.0.0.{build}), hipcc (= 1.1.1.{build})"
    yield Package("rocm-hip-runtime", f"{version}.{build}", needs)
    yield Package("rocm", f"{version}.{build}", f"rocm-hip-runtime (= {version}.{build})")


def distribution_packages() -> Iterator[Package]:
    """Packages of Ubuntu 24.04 that have AMD's names with higher versions."""
    yield Package("rocminfo", "5.7.1-3build1")
    yield Package("hipcc", "5.7.1-3")


UBUNTUS_KERNEL, OLDER_KERNEL = "6.8.0-87-generic", "6.8.0-60-generic"


def signed_packages() -> Iterator[Package]:
    """Ubuntu's own driver in two releases, with modules for its kernels that Ubuntu built and signed.

    The fabric manager is older, and the module of the older kernel is that of the older release.
    """
    versions = ("580.159.03", NEW)
    for version in versions:
        revision = f"{version}-0ubuntu0.24.04.1"
        for name in ("nvidia-kernel-common-580-server", "libnvidia-compute-580-server", "nvidia-utils-580-server"):
            yield Package(name, revision)
        needs = f"nvidia-kernel-common-580-server (= {revision}), libnvidia-compute-580-server (= {revision})"
        yield Package("nvidia-headless-no-dkms-580-server-open", revision, needs)
    yield Package("nvidia-fabricmanager-580", "580.159.03-0ubuntu0.24.04.1")
    module = "linux-modules-nvidia-580-server-open"
    needs = f"nvidia-kernel-common-580-server (>= {versions[0]})"
    yield Package(f"{module}-{UBUNTUS_KERNEL}", "6.8.0-87.88", needs)
    yield Package(f"{module}-{OLDER_KERNEL}", "6.8.0-60.63", f"nvidia-kernel-common-580-server (<= {versions[0]}-1)")
    yield Package(f"{module}-generic", "6.8.0-87.88", f"{module}-{UBUNTUS_KERNEL} (= 6.8.0-87.88), {needs}")
