"""The scripts of the driver roles in a bare root that is not booted, with substitutes for the programs that they call."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.package_roots import ENVIRONMENT, Root, bare
from tests.install.scripts import ROLES

VERSION = "580.178.04"
RUNS = os.uname().release
BLACKLIST = "etc/modprobe.d/firstlight-nvidia.conf"


class DriverRoot(Root):
    def file(self, name: str, text: str = "") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def program(self, name: str, script: str) -> None:
        self.file(f"usr/local/bin/{name}", f"#!/bin/sh\n{script}\n")

    def script(self, name: str, mode: str = "make", **variables: str) -> tuple[int, str]:
        """Run a script of a role; return its status and its lines without `firstlight-`. Mode `look` is check mode."""
        given = {**variables, "CHECK": str(int(mode == "look"))}
        words = (f"FIRSTLIGHT_{variable}={value}" for variable, value in given.items())
        done = self.run("env", "-i", *ENVIRONMENT, *words, "sh", "-c", (ROLES / name).read_text())
        return done.returncode, (done.stdout + done.stderr).replace("firstlight-", "")

    def secure_boot(self) -> tuple[int, str]:
        return self.script("nvidia_driver/files/secure_boot.sh")

    def initramfs(self, mode: str = "make") -> tuple[int, str]:
        return self.script("nvidia_driver/files/initramfs.sh", mode, SETTINGS=f"/{BLACKLIST}")

    def kernel_modules(self, mode: str = "make") -> tuple[int, str]:
        return self.script("nvidia_driver/files/kernel_modules.sh", mode, VERSION=VERSION)

    def load(self, mode: str = "make", driver: str = "nvidia") -> tuple[int, str]:
        role = {"nvidia": "nvidia_driver", "amdgpu": "rocm"}[driver]
        return self.script(f"{role}/files/load.sh", mode, VERSION=VERSION, OLDEST=VERSION)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[DriverRoot]:
    with bare(tmp_path) as path:
        yield DriverRoot(path)


MOKUTIL = """case "$1" in
    --sb-state) echo "SecureBoot {state}" ;;
    --test-key) echo "$2 is {enrolled}" ;;
esac"""


@pytest.mark.parametrize(
    ("state", "key", "enrolled", "hint"),
    [
        ("disabled", None, "", None),
        ("enabled\nSecureBoot validation is disabled in shim", None, "", None),
        ("enabled", "var/lib/dkms/mok.pub", "already enrolled", None),
        ("enabled", "var/lib/shim-signed/mok/MOK.der", "already enrolled", None),
        ("enabled", "var/lib/dkms/mok.pub", "not enrolled", "sudo mokutil --import /var/lib/dkms/mok.pub"),
        ("enabled", None, "", "sudo dkms generate_mok"),
    ],
)
def test_secure_boot_needs_an_enrolled_key_and_none_is_enrolled(
    root: DriverRoot, state: str, key: str | None, enrolled: str, hint: str | None
) -> None:
    root.program("mokutil", MOKUTIL.format(state=state, enrolled=enrolled))
    if key:
        root.file(key, "a key")
    status, output = root.secure_boot()
    if hint is None:
        assert (status, output) == (0, "")
    else:
        assert status == 1
        assert "error: Secure Boot is on" in output
        assert hint in output


def test_a_driver_that_runs_on_every_card_is_not_changed(root: DriverRoot) -> None:
    root.program("nvidia-smi", f"for card in 1 2 3 4; do echo {VERSION}; done")
    root.program("modprobe", "echo called; exit 1")
    assert root.load() == (0, "")


def test_modules_are_loaded_if_no_other_driver_uses_the_cards(root: DriverRoot) -> None:
    (root.path / "lib/modules" / RUNS).mkdir(parents=True)
    root.program("nvidia-smi", f"[ -e /run/loaded ] && echo {VERSION}")
    root.program("modprobe", "touch /run/loaded")
    assert root.load("look") == (0, "changed: modules loaded\n")
    assert not (root.path / "run/loaded").exists()
    assert root.load() == (0, "changed: modules loaded\n")
    assert root.load() == (0, "")


def test_a_restart_is_requested_with_the_cause_if_modules_cannot_be_loaded(root: DriverRoot) -> None:
    (root.path / "lib/modules" / RUNS).mkdir(parents=True)
    root.program("nvidia-smi", f"echo 570.211.01; echo {VERSION}")
    root.program("modprobe", "echo 'modprobe: FATAL: Module nvidia not found' >&2; exit 1")
    status, output = root.load()
    assert (status, "modprobe: FATAL: Module nvidia not found" in output) == (0, True)
    assert output.startswith("restart: ")


def test_initial_ram_disks_older_than_the_blacklist_are_rebuilt_once(root: DriverRoot) -> None:
    image = root.file(f"boot/initrd.img-{RUNS}")
    os.utime(image, (1, 1))
    for other in (f"initrd.img-{RUNS}.old-dkms", "initramfs-0-rescue-0123.img", f"initramfs-{RUNS}kdump.img"):
        os.utime(root.file(f"boot/{other}"), (1, 1))
    assert root.initramfs() == (0, "")
    root.file(BLACKLIST, "blacklist nouveau\n")
    root.program("update-initramfs", f'echo "$*" >>/run/calls; touch /boot/initrd.img-{RUNS}')
    rebuilt = (0, "changed: update-initramfs -u -k all\n")
    assert root.initramfs("look") == rebuilt
    assert root.initramfs() == rebuilt
    assert root.initramfs() == (0, "")
    assert (root.path / "run/calls").read_text() == "-u -k all\n"


def test_a_full_boot_partition_is_reported(root: DriverRoot) -> None:
    os.utime(root.file(f"boot/initrd.img-{RUNS}"), (1, 1))
    root.file(BLACKLIST)
    root.program("update-initramfs", "echo 'cpio: write error: No space left on device'; exit 1")
    status, output = root.initramfs()
    assert status == 1
    assert "error: update-initramfs -u -k all: cpio: write error: No space left on device" in output
    assert "hint: free disk space in /boot" in output


DKMS = """case "$1" in
    status) cat /run/built 2>/dev/null ;;
    autoinstall) [ "$3" = {broken} ] && {{ echo "Error! Bad return status for module build on kernel: $3"; exit 10; }}
        echo "nvidia/{version}, $3, x86_64: installed" >>/run/built ;;
esac
exit 0"""


def test_every_installed_kernel_gets_its_module(root: DriverRoot) -> None:
    for kernel in (RUNS, "6.1.0-9-amd64"):
        for folder in ("kernel", "build"):
            (root.path / "lib/modules" / kernel / folder).mkdir(parents=True)
    root.program("dkms", DKMS.format(broken="none", version=VERSION))
    changed = {f"changed: module for kernel {kernel}" for kernel in (RUNS, "6.1.0-9-amd64")}
    for mode in ("look", "make"):
        status, output = root.kernel_modules(mode)
        assert (status, set(output.splitlines())) == (0, changed)
    status, output = root.kernel_modules()
    assert (status, set(output.splitlines())) == (0, {line.replace("changed", "note") for line in changed})


def test_a_running_kernel_that_is_not_installed_is_reported_and_modules_are_built_for_installed_ones(
    root: DriverRoot,
) -> None:
    (root.path / "lib/modules/6.1.0-9-amd64/kernel").mkdir(parents=True)
    root.program("dkms", DKMS.format(broken="none", version=VERSION))
    status, output = root.kernel_modules()
    assert status == 0
    assert f"note: kernel {RUNS} runs and is not installed on this host" in output
    assert "changed: module for kernel 6.1.0-9-amd64" in output
    root.program("nvidia-smi", "exit 9")
    assert root.load()[1].startswith(f"restart: kernel {RUNS} runs, which is not installed on this host")


def test_without_any_kernel_no_module_can_be_built(root: DriverRoot) -> None:
    status, output = root.kernel_modules()
    assert status == 1
    assert f"error: kernel {RUNS} runs, and no kernel is installed on this host" in output
    assert "hint: its kernel is provided from outside, as in a container" in output


@pytest.mark.parametrize("broken", [RUNS, "6.1.0-9-amd64"])
def test_a_module_that_cannot_be_built_is_an_error_only_for_the_running_kernel(root: DriverRoot, broken: str) -> None:
    for kernel in (RUNS, "6.1.0-9-amd64"):
        (root.path / "lib/modules" / kernel / "kernel").mkdir(parents=True)
    root.program("dkms", DKMS.format(broken=broken, version=VERSION))
    root.file(
        f"var/lib/dkms/nvidia/{VERSION}/build/make.log",
        "  CC [M] nv-drm.o\nnv-drm.c:99:5: error: implicit declaration of function 'drm_x'\n",
    )
    assert root.kernel_modules("look") == (0, "")
    status, output = root.kernel_modules()
    kind = "error" if broken == RUNS else "note"
    assert status == (1 if broken == RUNS else 0)
    assert f"{kind}: driver {VERSION} has no module for kernel {broken}: nv-drm.c:99:5: error: implicit" in output


def test_amdgpu_is_loaded_unless_only_a_restart_helps(root: DriverRoot) -> None:
    root.program("modprobe", "mkdir -p /dev; touch /dev/kfd")
    assert root.load("look", driver="amdgpu") == (0, "changed: modules loaded\n")
    assert not (root.path / "dev/kfd").exists()
    assert root.load(driver="amdgpu") == (0, "changed: modules loaded\n")
    assert root.load(driver="amdgpu") == (0, "")
    (root.path / "dev/kfd").unlink()
    root.program("modprobe", "echo 'modprobe: FATAL: Module amdgpu not found' >&2; exit 1")
    told = "restart: its modules did not load now: modprobe: FATAL: Module amdgpu not found\n"
    assert root.load(driver="amdgpu") == (0, told)


def test_an_amdgpu_older_than_the_installed_one_needs_a_restart(root: DriverRoot) -> None:
    root.file("dev/kfd")
    root.file("sys/module/amdgpu/version", f"{VERSION}\n")
    assert root.load(driver="amdgpu") == (0, "")
    root.file("sys/module/amdgpu/version", "6.12.12\n")
    assert root.load(driver="amdgpu") == (0, "restart: driver 6.12.12 is loaded\n")


def test_the_kernels_own_amdgpu_that_drives_no_gpu_needs_a_restart(root: DriverRoot) -> None:
    root.file("dev/kfd")
    (root.path / "sys/module/amdgpu").mkdir(parents=True)
    nodes = "sys/class/kfd/kfd/topology/nodes"
    root.file(f"{nodes}/0/properties", "cpu_cores_count 96\nsimd_count 0\n")
    assert root.load(driver="amdgpu") == (0, "restart: the loaded amdgpu offers no compute devices\n")
    root.file(f"{nodes}/1/properties", "cpu_cores_count 0\nsimd_count 1216\n")
    assert root.load(driver="amdgpu") == (0, "")
