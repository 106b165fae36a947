"""Decisions about packages, with stand-ins for the programs of a package manager."""

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.install.modules import PLAYBOOKS
from tests.probe.here import program

VENDOR = {"name": "nvidia-cuda", "manager": "apt", "uri": "https://example.com/repository/", "components": []}


@pytest.fixture(autouse=True)
def utils(monkeypatch: pytest.MonkeyPatch) -> None:
    import ansible.module_utils

    paths = [*ansible.module_utils.__path__, str(PLAYBOOKS / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", paths)


@pytest.fixture
def managers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of both package managers, on a host whose kernels have headers."""
    module = importlib.import_module("ansible.module_utils.firstlight_apt_dnf")
    monkeypatch.setattr(module, "kernels_without_headers", list)
    return module


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the programs of a package manager, which is the whole PATH besides that of the system."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def apt(managers: ModuleType, **part: Any) -> Any:
    """Return apt with the packages of a repository."""
    known: dict[str, Any] = {"packages": [], "version": None, "repository": VENDOR}
    return managers.Apt({**known, **part}, version=None, lock_timeout_s=1)


@pytest.mark.parametrize(
    ("candidate", "chosen"),
    [("6.1.148-1", "6.1.148-1"), ("6.12.38-1~bpo12+1", "6.12.38-1~bpo12+1"), ("6.1.90-1", "6.12.38-1~bpo12+1")],
    ids=["backports are only enabled", "the image is of backports", "headers of that version are not on offer"],
)
def test_headers_are_those_of_the_kernel_that_apt_would_install_next(
    managers: ModuleType, programs: Path, candidate: str, chosen: str
) -> None:
    """The newest version is that of backports, which apt takes only for a package that already comes from there."""
    program(programs, "apt-get", "exit 0")
    program(
        programs,
        "apt-cache",
        f"""case "$*" in
    "madison linux-headers-amd64")
        echo "linux-headers-amd64 | 6.12.38-1~bpo12+1 | http://example.com/debian bookworm-backports/main amd64 Packages"
        echo "linux-headers-amd64 | 6.1.148-1 | http://example.com/debian bookworm/main amd64 Packages" ;;
    "policy linux-image-amd64")
        printf 'linux-image-amd64:\\n  Installed: 6.1.140-1\\n  Candidate: {candidate}\\n  Version table:\\n' ;;
esac""",
    )
    have = {"linux-image-amd64": "6.1.140-1", "linux-image-6.1.0-37-amd64": "6.1.140-1"}
    assert apt(managers).headers(have, make=False) == {"linux-headers-amd64": chosen}


def test_a_kernel_that_has_headers_needs_no_package_of_them(tmp_path: Path) -> None:
    """Packages of Proxmox have other names, and a kernel of one's own has none. A link without its target is no headers."""
    runs, folder, source = os.uname().release, tmp_path / "modules", tmp_path / "source"
    for kernel in (runs, "6.8.12-9-pve", "6.1.0-9-amd64", "5.14.0-1.el9.x86_64"):
        (folder / kernel / "kernel").mkdir(parents=True)
        (folder / kernel / "build").symlink_to(source / kernel)
    for kernel in (runs, "6.8.12-9-pve"):
        (source / kernel).mkdir(parents=True)
        (source / kernel / "Makefile").touch()
    package_manager = importlib.import_module("ansible.module_utils.firstlight_package_manager")
    others = ["5.14.0-1.el9.x86_64", "6.1.0-9-amd64"]
    assert package_manager.kernels_without_headers(str(folder)) == others
    (source / runs / "Makefile").unlink()
    assert package_manager.kernels_without_headers(str(folder)) == [runs, *others]


OWN = {"name": "ubuntu", "manager": "apt", "uri": "", "origin": "Ubuntu", "components": ["restricted", "multiverse"]}
MODULE = "linux-modules-nvidia-580-server-open-6.8.0-45-generic"
NEWER_KERNEL = "bring the kernel up to date (apt-get full-upgrade), restart the host, and run the command again"


@pytest.mark.parametrize(
    ("offered", "hint"),
    [
        ("", "enable restricted multiverse of the archive in the host's package sources"),
        (
            "nvidia-utils-580-server | 580.173.02-1 | http://example.com/ubuntu noble/restricted amd64 Packages",
            NEWER_KERNEL,
        ),
    ],
    ids=["components are missing", "the kernel is older than the driver"],
)
def test_the_archive_has_no_module_for_an_older_kernel(
    managers: ModuleType, programs: Path, offered: str, hint: str
) -> None:
    program(programs, "apt-get", "printf 'Ubuntu\\thttp://example.com/ubuntu/\\n'")
    program(programs, "apt-cache", f"echo '{offered}' | sed '/^$/d'")
    asked = apt(managers, packages=[MODULE, "nvidia-utils-580-server"], repository=OWN)
    with pytest.raises(managers.HostError, match=f"package {MODULE} is not on offer") as raised:
        asked.transaction({}, headers=False, make=True)
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            f" {MODULE} : Depends: nvidia-kernel-common-580-server (<= 580.95.05-1) but 580.173.02-1 is to be installed",
            NEWER_KERNEL,
        ),
        (
            f" {MODULE} : Depends: nvidia-kernel-common-580-server (>= 580.190.02) but 580.173.02-1 is to be installed",
            f"try it on the host: apt-get install {MODULE}=1",
        ),
        (
            f"E: Failed to fetch http://example.com/{MODULE}.deb  404  Not Found",
            f"try it on the host: apt-get install {MODULE}=1",
        ),
    ],
    ids=["needs an older driver", "needs a newer driver", "is not fetched"],
)
def test_a_module_that_requires_an_older_driver_is_of_an_older_kernel(
    managers: ModuleType, programs: Path, said: str, hint: str
) -> None:
    program(programs, "apt-get", f"echo '{said}'; exit 100")
    with pytest.raises(managers.HostError, match=f"packages {MODULE}=1 were not installed: .*{MODULE}") as raised:
        apt(managers, repository=OWN).run_transaction({MODULE: "1"}, [])
    assert raised.value.hint.startswith(hint)
