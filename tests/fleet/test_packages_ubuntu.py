"""Driver packages with the names of NVIDIA's repository for Ubuntu, which contain the branch: the role's modules on a Debian root with Ubuntu's os-release."""

from collections.abc import Iterator
from typing import Any

import pytest

from provision.catalog.packages import packages_of_component
from tests.fleet.package_roots import AptRoot, apt_root, succeeded, wanted
from tests.fleet.vendor import NEW, OLD, build_repository, signer
from tests.fleet.vendor_others import ubuntu_packages

OS_RELEASE = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'
OPEN = {
    "nvidia-open",
    "nvidia-open-580",
    "nvidia-driver-580-open",
    "nvidia-dkms-580-open",
    "nvidia-kernel-source-580-open",
    "libnvidia-compute-580",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptRoot]:
    """The root of all tests of this file, which run in order; each continues from the state that the one before left."""
    folder = tmp_path_factory.mktemp("ubuntu")
    with signer(folder) as by:
        build_repository(folder / "mirror", by, path="ubuntu2404/x86_64", content=ubuntu_packages())
        with apt_root(folder, by, path="ubuntu2404/x86_64", os_release=OS_RELEASE) as made:
            yield made


def bring(
    root: AptRoot, mode: str = "make", *, flavour: str = "open", version: str = NEW, **values: Any
) -> tuple[int, str]:
    root.pin(version)
    what = wanted(flavour, version, system=("ubuntu", "24.04"), headers=False, **values)
    return root.module("firstlight_packages", mode, what)


def test_a_branch_is_installed_and_pinned(root: AptRoot) -> None:
    succeeded(bring(root, version=OLD))
    assert set(root.states().values()) == {(OLD, "hi")}
    assert {"nvidia-driver-570-open", "nvidia-dkms-570-open"} <= root.states().keys()
    assert bring(root, "look", version=OLD) == (0, "")
    assert "Inst" not in root.run("apt-get", "-s", "dist-upgrade").stdout


def test_another_branch_has_other_names_and_replaces_the_old_packages(root: AptRoot) -> None:
    succeeded(bring(root))
    assert root.states() == dict.fromkeys(OPEN, (NEW, "hi"))
    assert bring(root, "look") == (0, "")


def test_the_other_flavour_of_the_modules_is_removed(root: AptRoot) -> None:
    succeeded(bring(root, flavour="proprietary"))
    there = root.states()
    assert {"cuda-drivers", "cuda-drivers-580", "nvidia-driver-580", "nvidia-dkms-580"} <= there.keys()
    assert [name for name in there if "open" in name] == []
    assert set(there.values()) == {(NEW, "hi")}
    succeeded(bring(root))
    assert root.states() == dict.fromkeys(OPEN, (NEW, "hi"))


def test_the_fabric_manager_is_found_under_its_older_name(root: AptRoot) -> None:
    packages = list(packages_of_component("fabric-manager", branch="580"))
    succeeded(bring(root, packages=packages, instead_of=[]))
    assert root.states()["nvidia-fabricmanager-580"] == (NEW, "hi")
