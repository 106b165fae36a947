"""The role's modules with dnf: Debian's own dnf and rpm, in a root that is not booted, with a repository like the vendor's for RHEL 9."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from provision.catalog.packages import packages_of_component, repository_of_component
from provision.core.models.inventory import Host
from tests.fleet.commands import command
from tests.fleet.hosts import FleetHost, authorize
from tests.fleet.layers import RPM_TOOLS
from tests.fleet.machine import Machine
from tests.fleet.package_roots import Root, bare, succeeded, wanted
from tests.fleet.vendor import NEW, OLD, PLACE
from tests.install.fleet_site import FleetSite, make_fleet_site

pytestmark = pytest.mark.long("packages with dnf", seconds=100)

NEWEST = "595.91.07"
REPOSITORY = f"{PLACE}/rhel9/x86_64"
SPEC = """
Name: nvidia-open
Epoch: 3
Version: %{v}
Release: 1.el9
Summary: nothing
License: none
BuildArch: noarch
Requires: kmod-nvidia-open-dkms >= 3:%{v}, nvidia-driver-cuda >= 3:%{v}, dkms
%description
nothing
%install
mkdir -p %{buildroot}/usr/local/cuda-13.0/compat %{buildroot}/etc/yum.repos.d
echo nothing >%{buildroot}/usr/local/cuda-13.0/compat/libcuda.so.1
printf '[epel]\nname=epel\nbaseurl=file:///srv/epel\nenabled=1\ngpgcheck=1\n' >%{buildroot}/etc/yum.repos.d/epel.repo
"""
PART = """
%package -n {name}
Summary: nothing
{more}
%description -n {name}
nothing
"""
MORE = """
Name: {name}
Version: {version}
Release: 1
Summary: nothing
License: none
BuildArch: noarch
{more}
%description
nothing
%files
"""
BUILT = "/root/rpmbuild/RPMS/noarch"
PARTS = {
    "kmod-nvidia-open-dkms": "Conflicts: kmod-nvidia-latest-dkms",
    "kmod-nvidia-latest-dkms": "",
    "nvidia-driver-cuda": "Requires: ocl-icd",
    "cuda-drivers": "Requires: kmod-nvidia-latest-dkms >= 3:%{v}, nvidia-driver-cuda >= 3:%{v}, dkms",
    "nvidia-fabricmanager": "",
    "cuda-compat-13-0": "",
    "nvidia-fabric-manager": "",
    "epel-release": "",
    "dkms": "",
    "ocl-icd": "",
}
FILES_OF = {
    "cuda-compat-13-0": "/usr/local/cuda-13.0/compat/libcuda.so.1\n",
    "epel-release": "/etc/yum.repos.d/epel.repo\n",
}
NOT_THE_VENDORS = {"epel-release", "dkms", "ocl-icd"}
REPO_FILE = f"""[firstlight-nvidia-cuda]
name=nvidia-cuda, for Firstlight alone
baseurl=file://{REPOSITORY}/
enabled=0
gpgcheck=1
module_hotfixes=1
"""


class DnfRoot(Root):
    """A Debian with dnf and the vendor's rpm packages; dkms and ocl-icd are in EPEL, which a package of the distribution enables."""

    def packages(
        self, mode: str = "make", *, flavour: str = "open", version: str | None = NEW, **values: Any
    ) -> tuple[int, str]:
        values = {"headers": False, "before": ["epel-release"], **values}
        return self.module("firstlight_packages", mode, wanted(flavour, version, system=("rocky", "9.5"), **values))

    def build(self, name: str, version: str, more: str = "") -> None:
        """Build another package into BUILT."""
        (self.path / "root/more.spec").write_text(MORE.format(name=name, version=version, more=more))
        self.sh("rpmbuild -bb --quiet /root/more.spec")

    def versions(self) -> dict[str, str]:
        """Return the versions of the vendor's packages."""
        rows = [line.split() for line in self.sh("rpm -qa --qf '%{NAME} %{VERSION}\\n'").splitlines()]
        return {name: version for name, version in rows if name not in NOT_THE_VENDORS | {"gpg-pubkey"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnfRoot]:
    with bare(tmp_path_factory.mktemp("dnf"), RPM_TOOLS) as path:
        yield equipped(path)


def equipped(path: Path) -> DnfRoot:
    """A root with a signed repository of three branches."""
    made = DnfRoot(path)
    parts = "".join(PART.format(name=name, more=more) for name, more in PARTS.items())
    (path / "root/driver.spec").write_text(
        SPEC + parts + "%files\n" + "".join(f"%files -n {name}\n{FILES_OF.get(name, '')}" for name in PARTS)
    )
    (path / "etc/yum.repos.d").mkdir()
    (path / "etc/pki/rpm-gpg").mkdir(parents=True)
    (path / "etc/yum.repos.d/firstlight-nvidia-cuda.repo").write_text(REPO_FILE)
    (path / "etc/yum.repos.d/base.repo").write_text(
        "[base]\nname=base\nbaseurl=file:///srv/base\nenabled=1\ngpgcheck=1\n"
    )
    made.sh(
        f'for version in {OLD} {NEW} {NEWEST}; do rpmbuild -bb --quiet --define "v $version" /root/driver.spec; done; '
        "gpg -q --batch --passphrase '' --quick-generate-key vendor rsa2048 sign never; gpg --armor --export >/root/key.asc; "
        "rpmsign --define '_gpg_name vendor' --define '__gpg /usr/bin/gpg' --addsign /root/rpmbuild/RPMS/noarch/*.rpm >/dev/null; "
        f"gpgconf --kill all; mkdir -p {REPOSITORY}; mv /root/rpmbuild/RPMS/noarch/*.rpm {REPOSITORY}; "
        f"mkdir /srv/base /srv/epel; mv {REPOSITORY}/epel-release-* /srv/base; mv {REPOSITORY}/dkms-* {REPOSITORY}/ocl-icd-* /srv/epel; "
        f"rm {REPOSITORY}/nvidia-fabricmanager-{OLD}-* {REPOSITORY}/nvidia-fabric-manager-5[89]*; "
        f"for folder in {REPOSITORY} /srv/base /srv/epel; do createrepo_c -q $folder; done"
    )
    return made


def test_nothing_is_installed_without_a_valid_signature(root: DnfRoot) -> None:
    status, output = root.packages()
    assert status == 1
    assert "were not installed" in output
    assert root.versions() == {}
    root.sh("rpm --import /root/key.asc 2>/dev/null")


def test_the_wait_for_a_lock_ends_and_names_its_holder(root: DnfRoot) -> None:
    """Also within dnf's shell, which then ends with 0."""
    lock, process = root.path / "var/lib/dnf/rpmdb_lock.pid", root.path / "proc/7"
    lock.write_text("7")
    process.mkdir()
    (process / "stat").touch()
    status, output = root.packages(lock_timeout_s=1)
    assert status == 1
    assert "another package manager (process 7) held its lock for 1 s" in output
    lock.unlink()
    shutil.rmtree(process)


def test_the_planned_version_is_installed_and_nothing_newer(root: DnfRoot) -> None:
    assert "nvidia-open=3:580.178.04-1.el9" in root.packages("look")[1]
    assert root.versions() == {}
    succeeded(root.packages())
    assert {"nvidia-open", "kmod-nvidia-open-dkms", "nvidia-driver-cuda"} <= root.versions().keys()
    assert set(root.versions().values()) == {NEW}
    for mode in ("look", "make"):
        assert root.packages(mode) == (0, "")


def test_an_upgrade_of_the_distribution_installs_no_newer_driver(root: DnfRoot) -> None:
    before = root.versions()
    root.sh("dnf -y -q --releasever=9 upgrade")
    assert root.versions() == before


@pytest.mark.parametrize(("flavour", "version"), [("open", OLD), ("proprietary", NEW), ("open", NEWEST)])
def test_branch_and_flavour_are_changed_completely(root: DnfRoot, flavour: str, version: str) -> None:
    succeeded(root.packages(flavour=flavour, version=version))
    assert set(root.versions().values()) == {version}
    assert ("kmod-nvidia-open-dkms" in root.versions()) is (flavour == "open")
    assert ("kmod-nvidia-latest-dkms" in root.versions()) is (flavour == "proprietary")
    assert root.packages("look", flavour=flavour, version=version) == (0, "")


def test_dkms_and_ocl_icd_come_from_epel_which_is_enabled_first(root: DnfRoot) -> None:
    """On Enterprise Linux 9 neither the vendor nor the distribution has them."""
    assert root.sh("rpm -q epel-release dkms ocl-icd")
    there = " ".join(root.versions())
    root.sh(f"rpm -e {there} dkms ocl-icd epel-release")
    status, output = root.packages(before=[])
    assert status == 1
    assert "package dkms" in output
    assert "come from EPEL: enable it on the host" in output
    assert root.versions() == {}
    status, output = root.packages()
    assert (status, "changed: packages epel-release\n" in output) == (0, True), output
    assert root.packages("look") == (0, "")


@pytest.mark.parametrize(("version", "name"), [(OLD, "nvidia-fabric-manager"), (NEW, "nvidia-fabricmanager")])
def test_the_fabric_manager_has_another_name_below_branch_580(root: DnfRoot, version: str, name: str) -> None:
    packages = list(packages_of_component("fabric-manager", branch=version.partition(".")[0]))
    succeeded(root.packages(version=version, packages=packages, instead_of=[]))
    assert root.versions()[name] == version
    root.sh(f"rpm -e {name}")


def test_an_uninstallation_removes_driver_repository_and_key_with_consent_alone(root: DnfRoot) -> None:
    (root.path / "etc/pki/rpm-gpg/firstlight-nvidia-cuda").write_text((root.path / "root/key.asc").read_text())
    (root.path / "var/lib/firstlight-drivers/keys").write_text("key /etc/pki/rpm-gpg/firstlight-nvidia-cuda\n")
    succeeded(root.packages())
    root.build("zfs-dkms", "2", "Requires: dkms")
    for version in ("5.14.0", "5.14.1"):
        root.build("kernel-devel", version)
    root.sh(f"rpm -i --nosignature {BUILT}/zfs-dkms-* {BUILT}/kernel-devel-*")
    with (root.path / "var/lib/firstlight-drivers/nvidia-cuda").open("a") as record:
        record.write("installed kernel-devel\n")
    (said,) = root.uninstall()
    assert root.versions().keys() - {"zfs-dkms"} <= set(said.split())
    (left,) = root.uninstall(drivers=True)
    assert left == "dkms, which other packages need: dkms is needed by (installed) zfs-dkms-2-1.noarch"
    assert root.versions().keys() == {"zfs-dkms"}
    assert root.sh("rpm -q dkms")
    assert root.run("rpm", "-q", "ocl-icd", "gpg-pubkey").returncode == 2
    assert root.sh("find /etc/yum.repos.d /etc/pki /var/lib -name 'firstlight*'") == ""
    assert root.uninstall(drivers=True) == []
    root.sh("rpm -e zfs-dkms; rpm --import /root/key.asc")
    (root.path / "etc/yum.repos.d/firstlight-nvidia-cuda.repo").write_text(REPO_FILE)
    assert root.packages()[0] == 0


def test_the_newest_version_is_that_of_the_highest_numbers(root: DnfRoot) -> None:
    for version in ("12.4.99", "12.4.131"):
        root.build("cuda-nvcc-12-4", version)
    root.sh(f"mv {BUILT}/cuda-nvcc-* {REPOSITORY}; createrepo_c -q {REPOSITORY}; dnf -q clean all")
    _, output = root.packages("look", packages=["cuda-nvcc-12-4"], family=None, version=None, instead_of=[])
    assert output == "changed: packages cuda-nvcc-12-4=12.4.131-1\n"


def test_headers_are_those_of_the_kind_of_kernel(root: DnfRoot) -> None:
    """A kernel with pages of 64 KiB has a package of another name."""
    kernel = "5.14.0-1.aarch64+64k"
    (root.path / "lib/modules" / kernel / "kernel").mkdir(parents=True)
    root.build("kernel-64k-devel", "5.14.0", f"Provides: kernel-devel-uname-r = {kernel}")
    root.sh(f"cp {BUILT}/kernel-64k-* /srv/base; createrepo_c -q /srv/base; dnf -q clean all")
    assert "packages kernel-64k-devel-0:5.14.0-1.noarch" in succeeded(root.packages("look", headers=True))
    root.sh(f"rpm -i --nosignature {BUILT}/kernel-64k-*")
    assert root.packages("look", headers=True) == (0, "")
    root.sh(f"rpm -e kernel-64k-devel; rm -r /lib/modules/{kernel}")


def test_an_unavailable_version_changes_nothing(root: DnfRoot) -> None:
    before = root.versions()
    status, output = root.packages(version="580.65.06")
    assert status == 1
    assert "nvidia-open or nvidia-open-580 580.65.06 is not on offer" in output
    assert root.versions() == before


class RootSite(FleetSite):
    """The root as a host: an SSH server runs in it."""

    port: int

    def host(self) -> Host:
        known = super().host()
        return known.model_copy(update={"connection": known.connection.model_copy(update={"port": self.port})})


@pytest.fixture
def site(root: DnfRoot, tmp_path: Path) -> Iterator[RootSite]:
    """A site without the vendor's key and repository."""
    root.sh("rpm -e gpg-pubkey; rm /etc/yum.repos.d/firstlight-nvidia-cuda.repo; mkdir -p /run/sshd; ssh-keygen -A")
    key, known, path = tmp_path / "id_ed25519", tmp_path / "known_hosts", root.path
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    authorize(path / "root", key.with_suffix(".pub").read_text(), 0, 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = (path / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{port} {' '.join(words)}\n")
    # Its mounts end with it.
    mounts = f"mount -t devpts devpts {path}/dev/pts && mount -t proc proc {path}/proc"
    serve = f"exec chroot {path} /usr/sbin/sshd -D -p {port} -o ListenAddress=127.0.0.1"
    server = subprocess.Popen(["unshare", "--mount", "sh", "-ec", f"{mounts}; {serve}"], stderr=subprocess.DEVNULL)
    try:
        _wait_until_answered(port)
        made = make_fleet_site(tmp_path / "site", FleetHost("rhel", "127.0.0.1", key, known, "", Machine("", path)))
        site = RootSite(folder=made.folder, variables=made.variables, wheels=made.wheels, name=made.name)
        site.fleet_host, site.become, site.port = made.fleet_host, {}, port
        yield site
    finally:
        server.terminate()
        server.wait()


def _wait_until_answered(port: int) -> None:
    for _ in range(100):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the SSH server in the root does not answer")


def test_the_role_trusts_the_key_and_names_the_repository(root: DnfRoot, site: RootSite, tmp_path: Path) -> None:
    key = tmp_path / "vendor.asc"
    shutil.copy(root.path / "root/key.asc", key)
    repository = repository_of_component(
        "cuda-compat", os_id="rocky", version_id="9.5", machine="x86_64", mirror=f"file://{PLACE}", key=str(key)
    )
    compat = {"version": "13.0", "folder": "/usr/local/cuda-13.0/compat", "packages": ["cuda-compat-13-0"]}
    site.plan(firstlight_cuda_compat={**compat, "repository": asdict(repository)})
    done = site.play("drivers")
    assert (done.status, done.changed) == ("ok", True), done
    assert root.sh("rpm -q gpg-pubkey")
    written = (root.path / "etc/yum.repos.d/firstlight-nvidia-cuda.repo").read_text()
    assert written == f"# Written by Firstlight.\n{REPO_FILE}"
    assert root.versions()["cuda-compat-13-0"] == NEWEST
