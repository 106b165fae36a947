"""A distribution's own driver, as Ubuntu names it: the role's modules on a Debian root whose archive calls itself Ubuntu."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from provision.core.models.facts import OperatingSystem
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.phases.install.drivers import driver_work
from tests.drivers.test_work import OWN, facts, stack
from tests.fleet.package_roots import AptRoot, bare, succeeded
from tests.fleet.vendor import NEW, OLD, PLACE, build_repository, build_suite, signer
from tests.fleet.vendor_others import (
    OLDER_KERNEL,
    UBUNTUS_KERNEL,
    distribution_packages,
    signed_packages,
    ubuntu_packages,
)

KEY = "/usr/share/keyrings/archive.asc"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AptRoot]:
    """A root with only `main` of the distribution's archive at first, and the vendor's repository. The tests of this file run in order on it."""
    folder = tmp_path_factory.mktemp("own")
    with signer(folder) as by, bare(folder) as path:
        mirror = path / PLACE.lstrip("/")
        content = {"main": distribution_packages(), "restricted": signed_packages(), "multiverse": ()}
        build_suite(mirror, by, path="ubuntu", suite="noble", content=content, origin="Ubuntu")
        build_repository(mirror, by, path="ubuntu2404/x86_64", content=ubuntu_packages())
        shutil.copy(by.key, path / KEY.lstrip("/"))
        vendors = f"deb [signed-by={KEY}] file://{PLACE}/ubuntu2404/x86_64 /\n"
        (path / "etc/apt/sources.list").write_text(f"deb [signed-by={KEY}] file://{PLACE}/ubuntu noble main\n{vendors}")
        made = AptRoot(path)
        yield made


def part(*, fabric: bool = False, **changes: Any) -> dict[str, Any]:
    """Return the parameters of the role's modules for the planned driver, or for its fabric manager."""
    system = OperatingSystem(id="ubuntu", version_id="24.04", machine="x86_64", kernel=UBUNTUS_KERNEL)
    host = Host(name="gpu-1", connection=Connection(kind="local"), settings=Settings())
    work = driver_work(host, facts(os=system), stack(OWN, fabric_manager=NEW))
    planned = work.fabric_manager if fabric else work.driver
    assert planned is not None
    return {"instead_of": [], "along": [], **planned, "headers": False, "lock_timeout_s": 60, **changes}


def test_components_of_the_archive_that_hold_the_packages_must_be_enabled(root: AptRoot) -> None:
    status, output = root.module("firstlight_packages", "make", part())
    assert status == 1
    assert "hint: enable restricted multiverse of the archive in the host's package sources" in output
    sources = root.path / "etc/apt/sources.list"
    sources.write_text(sources.read_text().replace(" noble main\n", " noble main restricted multiverse\n"))
    root.run("apt-get", "-qq", "update")


def test_the_driver_is_as_new_as_its_fabric_manager(root: AptRoot) -> None:
    along = part(fabric=True)["packages"]
    output = root.module("firstlight_packages", "make", part(choose=True, along=along))[1]
    assert output.splitlines()[-1] == "version: 580.159.03"
    assert "note: the sources of ubuntu has no 580.178.04 of all packages" in output
    output = root.module("firstlight_packages", "make", part(choose=True))[1]
    assert output == f"version: {NEW}\n"


def test_modules_signed_by_the_distribution_need_no_dkms(root: AptRoot) -> None:
    """The vendor's packages of the same version and of another one are available as well."""
    root.pin(NEW)
    succeeded(root.module("firstlight_packages", "make", part()))
    there = root.run("dpkg-query", "-W", "-f", "${Package} ${Version}\n").stdout
    assert f"linux-modules-nvidia-580-server-open-{UBUNTUS_KERNEL} 6.8.0-87.88\n" in there
    assert "linux-modules-nvidia-580-server-open-generic 6.8.0-87.88\n" in there
    assert "dkms" not in [line.split()[0] for line in there.splitlines()]
    revision = f"{NEW}-0ubuntu0.24.04.1"
    assert f"nvidia-headless-no-dkms-580-server-open {revision}\n" in there
    assert root.states()["nvidia-utils-580-server"] == (NEW, "hi")
    for mode in ("look", "make"):
        assert root.module("firstlight_packages", mode, part()) == (0, "")


@pytest.mark.parametrize(
    ("kernel", "text"), [("6.8.0-45-generic", "is not on offer"), (OLDER_KERNEL, "were not installed")]
)
def test_a_kernel_that_is_older_than_the_driver_is_to_be_brought_up_to_date(
    root: AptRoot, kernel: str, text: str
) -> None:
    before = root.states()
    names = [name.replace(UBUNTUS_KERNEL, kernel) for name in part()["packages"]]
    status, output = root.module("firstlight_packages", "make", part(packages=names))
    assert (status, text in output, root.states()) == (1, True, before)
    assert "hint: bring the kernel up to date (apt-get full-upgrade), restart the host" in output


def test_packages_with_their_own_versions_are_not_removed(root: AptRoot) -> None:
    """Debian's nvidia-modprobe is of another branch than its driver: with the family's rule it would be removed."""
    assert OLD != NEW
    root.sh(
        "apt-get -qq -y install nvidia-utils-580-server=580.159.03-0ubuntu0.24.04.1 --allow-downgrades --allow-change-held-packages"
    )
    family = {**part()["family"], "apart": ["nvidia-utils-*"]}
    kept = [name for name in part()["packages"] if "utils" not in name]
    assert root.module("firstlight_packages", "look", part(family=family, packages=kept)) == (0, "")
    assert "nvidia-utils-580-server=580.178.04" in root.module("firstlight_packages", "look", part(packages=kept))[1]
