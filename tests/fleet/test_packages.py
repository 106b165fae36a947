"""The role's modules for driver packages, with a vendor's signed repository and the apt of a bare Debian root that is not booted."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.commands import command
from tests.fleet.fixtures import require_hosts
from tests.fleet.package_roots import KEY, PIN, SOURCE, AptRoot, apt_root, succeeded, wanted
from tests.fleet.vendor import NEW, OLD, Package, Signer, build_repository, build_suite, signer

HOLDS_LOCK = "import fcntl, time; file = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep({seconds})"

pytestmark = pytest.mark.long(seconds=110)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    require_hosts()
    folder = tmp_path_factory.mktemp("vendor")
    with signer(folder) as by:
        build_repository(folder / "mirror", by)
        yield by


@pytest.fixture
def root(vendor: Signer, tmp_path: Path) -> Iterator[AptRoot]:
    with apt_root(tmp_path, vendor, path="debian12/x86_64") as made:
        made.pin(NEW)
        yield made


def packages(root: AptRoot, mode: str = "make", **values: Any) -> tuple[int, str]:
    return root.module("firstlight_packages", mode, wanted(**values))


@pytest.fixture
def old(root: AptRoot) -> AptRoot:
    """A root with the older branch, held, and a package that no newer branch has."""
    root.pin(OLD)
    succeeded(packages(root, version=OLD))
    assert root.run("apt-get", "-qq", "-y", "install", f"libnvidia-compute-570={OLD}-1").returncode == 0
    root.pin(NEW)
    return root


def test_the_planned_version_is_installed_and_held(root: AptRoot) -> None:
    status, output = packages(root, "look")
    assert (status, "nvidia-open=" in output, root.states()) == (0, True, {})
    succeeded(packages(root))
    assert set(root.states().values()) == {(NEW, "hi")}
    assert {"nvidia-open", "nvidia-kernel-open-dkms", "nvidia-driver-cuda", "libcuda1"} <= root.states().keys()
    for mode in ("look", "make"):
        assert packages(root, mode) == (0, "")


def install_by_hand(root: AptRoot, *names: str) -> None:
    root.sh(f"apt-get -qq update && apt-get -qq -y install {' '.join(names)}")


def test_an_uninstallation_removes_driver_holds_and_pins_with_consent_alone(root: AptRoot) -> None:
    before = root.sh("dpkg-query -W")
    succeeded(packages(root))
    (root.path / f"etc/apt/apt.conf.d/52{Path(PIN).name}").write_text("")
    root.run("apt-mark", "hold", "dpkg")
    (said,) = root.uninstall()
    assert "remove them with: ./firstlight uninstall --drivers" in said
    assert root.states().keys() <= set(said.split())
    assert set(root.states().values()) == {(NEW, "hi")}
    (root.path / "sys/module/nvidia").mkdir(parents=True)
    (left,) = root.uninstall(drivers=True)
    assert left == "module nvidia, which is loaded until the host is restarted (sudo systemctl reboot)"
    assert root.sh("dpkg-query -W") == before
    assert root.run("apt-mark", "showhold").stdout.split() == ["dpkg"]
    assert root.sh("find /etc /usr/share/keyrings /var/lib -name '*firstlight*'") == ""
    assert root.uninstalled(drivers=True) == ["firstlight-changed: folder /opt/firstlight"]


def test_what_others_need_and_what_was_there_before_stays(root: AptRoot, vendor: Signer, tmp_path: Path) -> None:
    install_by_hand(root, "linux-headers-" + os.uname().release)
    succeeded(packages(root))
    (tmp_path / "other").mkdir()
    Package("zfs-dkms", "2.1", "dkms").build(tmp_path / "other")
    shutil.copy(tmp_path / "other/zfs-dkms_2.1_all.deb", root.path / "root")
    root.sh("dpkg -i /root/zfs-dkms_2.1_all.deb")
    assert root.uninstall(drivers=True) == ["dkms, which other packages need: zfs-dkms depends on dkms"]
    assert root.states() == {}
    assert root.sh("dpkg-query -W -f '${db:Status-Abbrev}' dkms zfs-dkms linux-headers-$(uname -r)") == "ii ii ii "


def test_a_driver_that_was_there_before_stays_in_its_newer_version(root: AptRoot) -> None:
    root.pin(OLD)
    install_by_hand(root, "cuda-drivers")
    root.pin(NEW)
    succeeded(packages(root))
    there = root.states()
    (said,) = root.uninstall(drivers=True)
    assert said.startswith("packages that were there before, or replaced those")
    assert {"nvidia-open", "libcuda1"} <= there.keys() <= set(said.split())
    assert root.states() == dict.fromkeys(there, (NEW, "ii"))


def test_a_record_that_was_cut_off_is_made_up_for(root: AptRoot) -> None:
    """A run that is killed within the transaction has recorded nothing yet."""
    before = root.sh("dpkg-query -W -f '${Package} ${Version}\\n'")
    assert packages(root)[0] == 0
    folder = root.path / "var/lib/firstlight-drivers"
    (folder / "nvidia-cuda").unlink()
    (folder / "nvidia-cuda.before").write_text(before)
    assert packages(root) == (0, "")
    root.uninstall(drivers=True)
    assert root.states() == {}


def test_branch_and_flavour_of_the_modules_are_changed_completely(old: AptRoot) -> None:
    succeeded(packages(old, flavour="proprietary"))
    assert set(old.states().values()) == {(NEW, "hi")}
    assert {"cuda-drivers", "nvidia-kernel-dkms"} <= old.states().keys()
    assert not {"nvidia-open", "nvidia-kernel-open-dkms"} & old.states().keys()


def test_half_configured_packages_are_finished_first(root: AptRoot) -> None:
    packages(root, packages=["nvlsm"], family=None, version=None)
    database = root.path / "var/lib/dpkg/status"
    before, found, after = database.read_text().partition("Package: nvlsm\nStatus: install ok ")
    assert found
    database.write_text(before + found + after.replace("installed", "half-configured", 1))
    assert "nvlsm" in root.run("dpkg", "--audit").stdout
    output = succeeded(packages(root))
    assert "changed: half-configured packages nvlsm" in output
    assert root.run("dpkg", "--audit").stdout == ""


@pytest.fixture
def held_lock(root: AptRoot) -> Iterator[Callable[[float], None]]:
    started: list[subprocess.Popen[str]] = []

    def hold(seconds: float) -> None:
        words = ["chroot", str(root.path), "python3", "-c", HOLDS_LOCK.format(seconds=seconds)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_module_that_dkms_cannot_build_is_reported_with_the_log_of_the_compiler(root: AptRoot) -> None:
    """Like Debian's 550.163.01 on its own kernel 6.12.117: dpkg reports only that a script failed."""
    folder = root.path / "broken"
    script = "#!/bin/sh\nexit 10\n"
    with signer(root.path / "root") as by:
        broken = [Package("broken-dkms", "1-1", files={"DEBIAN/postinst": script})]
        build_repository(folder, by, path="x", content=broken)
        shutil.copy(by.key, root.path / "usr/share/keyrings/x.asc")
    (root.path / "etc/apt/sources.list").write_text("deb [signed-by=/usr/share/keyrings/x.asc] file:///broken/x /\n")
    status, output = packages(root, packages=["broken-dkms"], family=None, version=None)
    assert status == 1
    assert "packages broken-dkms=1-1 were not installed" in output
    assert "why a module could not be built: /var/lib/dkms/*/*/build/make.log" in output
    status, output = packages(root, packages=["broken-dkms"], family=None, version=None)
    assert "error: half-configured packages could not be repaired" in output


def test_the_role_waits_for_the_lock_of_another_package_manager(
    root: AptRoot, held_lock: Callable[[float], None]
) -> None:
    held_lock(4)
    succeeded(packages(root))
    assert set(root.states().values()) == {(NEW, "hi")}


def test_the_wait_for_a_lock_ends_and_names_its_holder(root: AptRoot, held_lock: Callable[[float], None]) -> None:
    held_lock(600)
    status, output = packages(root, lock_timeout_s=1)
    assert status == 1
    assert "held its lock for 1 s" in output
    assert root.states() == {}


def test_an_unavailable_version_changes_nothing(old: AptRoot) -> None:
    before = old.states()
    status, output = packages(old, version="580.65.06")
    assert status == 1
    assert "nvidia-open or nvidia-open-580 580.65.06 is not on offer" in output
    assert f"{NEW}-1" in output
    assert old.states() == before


@pytest.mark.parametrize(
    ("planned", "bounds", "along", "settled"),
    [
        (NEW, ("580.65.06", "581"), ["nvidia-fabricmanager"], NEW),
        ("580.211.04", ("580.65.06", "581"), ["nvidia-fabricmanager"], NEW),
        ("580.211.04", ("535.54.03", "581"), ["libnvidia-compute-570"], OLD),
        ("580.211.04", (None, None), [], "580.211.04"),
        ("550.163.01", ("550.54.14", "551"), [], "550.163.01"),
    ],
    ids=["planned", "newest within bounds", "newest of all packages", "exact", "none within bounds"],
)
def test_a_mirror_without_the_planned_version_gives_one_within_the_plans_bounds(
    root: AptRoot, planned: str, bounds: tuple[str | None, str | None], along: list[str], settled: str
) -> None:
    what = wanted(choose=True, version=planned, along=along, at_least=bounds[0], below=bounds[1])
    status, output = root.module("firstlight_packages", "make", what)
    assert (status, output.splitlines()[-1]) == (0, f"version: {settled}")
    assert ("note:" in output) is (settled != planned)
    assert root.states() == {}


def test_a_repository_signed_by_another_key_is_refused(root: AptRoot, tmp_path: Path) -> None:
    with signer(tmp_path, "stranger") as stranger:
        shutil.copy(stranger.key, root.path / KEY.lstrip("/"))
    status, output = packages(root)
    assert status == 1
    assert "error: apt-get update:" in output
    assert "NO_PUBKEY" in output
    assert root.states() == {}


def test_a_warning_about_a_repository_that_was_read_is_no_error(root: AptRoot, vendor: Signer) -> None:
    """apt warns at each update of a repository whose key apt-key has added."""
    command("gpg", "--dearmor", "--output", str(root.path / "etc/apt/trusted.gpg"), str(vendor.key))
    source = root.path / SOURCE
    source.write_text(source.read_text().partition("Signed-By")[0])
    assert "W: file:/srv/mirror" in root.run("apt-get", "-q", "update").stderr
    root.sh("rm -r /var/lib/apt/lists")
    succeeded(packages(root))


def test_a_foreign_architecture_of_a_package_that_goes_goes_too(root: AptRoot) -> None:
    """Steam installs the driver's libraries for i386."""
    root.sh("dpkg --add-architecture i386")
    for architecture in ("amd64", "i386"):
        package = Package("libnvidia-compute-535", "535.183.01-0ubuntu1", architecture=architecture)
        package.build(root.path / "root")
    root.sh("dpkg -i /root/libnvidia-compute-535_*.deb")
    succeeded(packages(root))
    assert packages(root, "look") == (0, "")
    assert "libnvidia-compute-535" not in root.states()


def test_only_the_key_with_the_fingerprint_is_used_from_a_file_of_keys(root: AptRoot, vendor: Signer) -> None:
    """The file is as the role writes it for a vendor's own repository."""
    text = (root.path / SOURCE).read_text().rstrip()
    (root.path / SOURCE).write_text(f"{text} {'0' * 40}\n")
    status, output = packages(root)
    assert status == 1
    assert "error: apt-get update:" in output
    assert root.states() == {}
    (root.path / SOURCE).write_text(f"{text} {vendor.fingerprint()}\n")
    succeeded(packages(root))


def test_a_kernel_without_headers_is_an_error_only_if_it_is_running(root: AptRoot) -> None:
    runs = os.uname().release
    for kernel in (runs, "6.1.0-9-amd64"):
        (root.path / "lib/modules" / kernel / "kernel").mkdir(parents=True)
    output = succeeded(packages(root))
    assert "note: package linux-headers-6.1.0-9-amd64 is not on offer" in output
    assert (root.path / f"usr/src/linux-headers-{runs}").is_dir()
    root.run("dpkg", "--purge", f"linux-headers-{runs}")
    (root.path / SOURCE).unlink()
    status, output = packages(root)
    assert status == 1
    assert f"package linux-headers-{runs} is not on offer, so no module can be built for kernel {runs}" in output


def test_headers_are_those_of_backports_only_if_the_image_is(root: AptRoot) -> None:
    """Backports have the newest version, and apt installs nothing from there unasked."""
    versions = {"bookworm": "6.1.148-1", "bookworm-backports": "6.12.38-1~bpo12+1"}
    rules = {"bookworm-backports": "NotAutomatic: yes\nButAutomaticUpgrades: yes\n"}
    key = "/usr/share/keyrings/debian.asc"
    with signer(root.path / "root", "debian") as by:
        for suite, version in versions.items():
            kernel = [Package(f"linux-{kind}-amd64", version) for kind in ("image", "headers")]
            more = rules.get(suite, "")
            build_suite(root.path, by, path="debian", suite=suite, content={"main": kernel}, origin="Debian", more=more)
        shutil.copy(by.key, root.path / key.lstrip("/"))
    lines = [f"deb [signed-by={key}] file:///debian {suite} main\n" for suite in versions]
    (root.path / "etc/apt/sources.list").write_text("".join(lines))
    for suite, version in versions.items():
        install_by_hand(root, f"linux-image-amd64/{suite}")
        assert f"linux-headers-amd64={version}" in succeeded(packages(root, "look"))
