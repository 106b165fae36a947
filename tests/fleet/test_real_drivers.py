"""Debian's own driver on a booted Debian 12: real packages, and a module that dkms really builds for a Debian kernel.

There is no card, and the running kernel is this machine's: the module is built and signed, never loaded. The tests of this file run in
order on one host; each continues from the state that the one before left. That the module is built again for the next kernel is tested with
small sources in place of the driver's, which dkms compiles for minutes.
"""

import re
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner, play_by_hand
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.vendor import give_cards

pytestmark = pytest.mark.long(seconds=420)

VERSION = "535.309.01"
"""The fixed release of Debian 12's security archive, which has it of the proprietary module alone."""
MODULE = "nvidia-current"
BUILD_S = 3600
SMALL_SOURCES = f"""
cd /usr/src/{MODULE}-{VERSION}
find . -mindepth 1 ! -name dkms.conf -delete
for name in nvidia nvidia-modeset nvidia-drm nvidia-uvm nvidia-peermem; do
    printf '#include <linux/module.h>\\nMODULE_LICENSE("GPL");\\nMODULE_VERSION("{VERSION}");\\n' >$name.c
    echo "obj-m += $name.o"
done >Makefile
printf 'modules:\\n\\tmake -C /lib/modules/$(KERNEL_UNAME)/build M=$(CURDIR) modules\\n' >>Makefile
"""
"""Modules with the names and the version of the driver's, for the driver's own dkms.conf."""
ENABLE = (
    "sed -Ei 's/^(Components:.*|deb .*) main( .*)?$/\\1 main contrib non-free non-free-firmware/' "
    "$(find /etc/apt -name '*.list' -o -name '*.sources')"
)
"""A command that enables the components which hold the driver."""
IMAGE = r"^ *linux-image-(6[\d.]+-\d+-(?:cloud-)?amd64) .* bookworm/main "


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> FleetHost:
    [booted] = fleet.boot(1, online=True)
    give_cards(booted)
    booted.sh(f"{ENABLE} && apt-get -qq update", timeout_s=600)
    return booted


@pytest.fixture(scope="module")
def kernels(host: FleetHost) -> tuple[str, str]:
    """Two kernels of the release, an older one and the next; the smaller flavour if it has two versions."""
    names = "apt-cache search --names-only '^linux-image-6.*-amd64$' | cut -d' ' -f1"
    offered = re.findall(IMAGE, host.sh(f"apt-cache madison $({names})"), re.MULTILINE)
    found = sorted(
        set(offered), key=lambda name: ("cloud" not in name, [int(part) for part in re.findall(r"\d+", name)])
    )
    return found[0], found[1]


@pytest.fixture(scope="module")
def inventory(host: FleetHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(host.inventory(tmp_path_factory.mktemp("inventory"), firstlight_driver_source="distribution"))


def install(host: FleetHost, *packages: str) -> None:
    words = " ".join(packages)
    host.sh(f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {words}", timeout_s=BUILD_S)


def module(host: FleetHost, kernel: str, field: str) -> str:
    """Return the metadata of a built module."""
    return host.sh(f"modinfo -k {kernel} -F {field} {MODULE}", check=False).strip()


def hosts_file(firstlight: CommandRunner) -> Path:
    return firstlight.logs / "latest/install/hosts.yml"


def test_debians_own_driver_is_built_for_the_installed_kernel(
    firstlight: CommandRunner, host: FleetHost, inventory: str, kernels: tuple[str, str]
) -> None:
    kernel = kernels[0]
    install(host, f"linux-image-{kernel}")
    ended = firstlight("drivers", "-i", inventory, code=1)
    result = ended.host(host.name)["phases"]["install"]
    assert f"driver {VERSION} is installed and runs after a restart of the host (kernel" in result["text"], result
    assert "which is not installed on this host and has no module" in result["text"]
    assert f"{MODULE}/{VERSION}, {kernel}, x86_64: installed" in host.sh("dkms status")
    assert (module(host, kernel, "version"), module(host, kernel, "vermagic").split()[0]) == (VERSION, kernel)
    assert module(host, kernel, "signer") == "DKMS module signing key"
    upgrade = [
        line for line in host.sh("apt-get -s dist-upgrade", timeout_s=600).splitlines() if line.startswith("Inst ")
    ]
    assert [line for line in upgrade if "nvidia" in line or "libcuda" in line] == [], "the pin keeps it"
    assert host.sh("dpkg-query -W -f '${Version}' libcuda1").startswith(VERSION)


def test_a_second_playbook_changes_nothing_and_names_the_signer(
    firstlight: CommandRunner, host: FleetHost, kernels: tuple[str, str]
) -> None:
    checked = play_by_hand("drivers", hosts_file(firstlight), "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = play_by_hand("drivers", hosts_file(firstlight), "-v")
    assert f"module for kernel {kernels[0]}, signed by DKMS module signing key" in done.stdout
    assert " changed=0 " in done.stdout, host.name + done.stdout
    assert "runs after a restart of the host" in done.stdout


def test_after_a_change_of_the_kernel_the_module_is_built_again(
    firstlight: CommandRunner, host: FleetHost, kernels: tuple[str, str]
) -> None:
    """The new kernel came without its headers, as an upgrade of the image alone brings it."""
    host.sh(SMALL_SOURCES)
    install(host, f"linux-image-{kernels[1]}")
    assert module(host, kernels[1], "version") == ""
    done = play_by_hand("drivers", hosts_file(firstlight))
    assert "runs after a restart of the host" in done.stdout, done.stdout
    for kernel in kernels:
        assert (module(host, kernel, "version"), module(host, kernel, "vermagic").split()[0]) == (VERSION, kernel)
        assert module(host, kernel, "signer") == "DKMS module signing key"


def test_an_uninstallation_with_drivers_removes_packages_and_modules(
    firstlight: CommandRunner, host: FleetHost, inventory: str, kernels: tuple[str, str]
) -> None:
    firstlight("uninstall", "-i", inventory, "--drivers", code=0)
    assert "nvidia" not in host.sh("dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | grep -v '^un'")
    assert [module(host, kernel, "version") for kernel in kernels] == ["", ""]
    assert host.sh("find /var/lib/dkms -name '*.ko*' 2>/dev/null || true") == ""
    assert host.sh("find /etc /usr/share/keyrings /var/lib -name '*firstlight*'") == ""
    assert firstlight("uninstall", "-i", inventory, "--drivers").summary["changed"] == 0
