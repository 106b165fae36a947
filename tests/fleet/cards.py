"""A host that shows the cards of a probe recording and has the driver's real user libraries, but no card and no kernel module.

Everything that needs no computation is real there: plan, stage and install of CUDA builds, loading their extensions, and the report about
cards that do not answer.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision.phases.probe.sections import Output, split
from tests.fleet.emulation import ARM64
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import DRIVER_LIBRARIES
from tests.fleet.serving import PREFIX

RECORDED = Path(__file__).parents[1] / "probe/recorded"
LOADING_S = 900.0
LOADER = Path(__file__).with_name("extensions.py").read_text(encoding="utf-8")
ARM_RECORDING = "gh200-aarch64"
SHOWN = "opt/shown"
"""The folder of the shown files, below the host's root."""

_SMI = """#!/bin/sh
case "$*" in
*-x*) cat /{shown}/nvidia-smi.xml ;;
*compute_cap*) cat /{shown}/compute ;;
*) echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." && exit 9 ;;
esac
"""
# Every process in a container sees the kernel's own tables: they are covered by mounts, not changed.
_COVER = """
mount -o remount,rw /sys
for folder in sys/bus/pci sys/module; do
    mkdir -p /$folder
    mount -t tmpfs shown /$folder
    cp -r /{shown}/$folder/. /$folder/
done
install -m 755 /{shown}/nvidia-smi /usr/bin/nvidia-smi
for name in {nodes}; do mknod -m 666 /dev/$name c 1 3; done
"""


def boot_with_cards(fleet: Fleet, recording: str, *, driver: str | None = None) -> FleetHost:
    """Boot a host with the cards of a recording; `driver` replaces the version of their driver."""
    [host] = fleet.boot(1, packages=DRIVER_LIBRARIES)
    show(host, recorded(recording), driver=driver)
    return host


def boot_arm(fleet: Fleet, packages: Sequence[str] = ()) -> FleetHost:
    """Boot an emulated Arm host that shows the processor of a recording."""
    [host] = fleet.boot(1, packages=packages, architecture=ARM64)
    show_processor(host, recorded(ARM_RECORDING))
    return host


def recorded(name: str) -> Output:
    """Return what a host answered to the probe."""
    return split((RECORDED / f"{name}.txt").read_bytes())


def show_processor(host: FleetHost, recorded: Output) -> None:
    """Show the processor as it was recorded: in /proc, an emulated host shows this machine's."""
    for path, text in {
        "proc/cpuinfo": recorded["cpu"].text.partition("online=")[0],
        "proc/sys/kernel/arch": f"{str(recorded['system'].value('uname')).split()[-1]}\n",
    }.items():
        shown = host.machine.root / SHOWN / path
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(text, encoding="utf-8")
        host.sh(f"mount --bind /{SHOWN}/{path} /{path}")


def show(host: FleetHost, recorded: Output, *, driver: str | None = None) -> None:
    """Show PCI devices, kernel modules, device nodes and nvidia-smi as they were recorded.

    Raises ValueError if no driver answered in the recording.
    """
    xml = recorded["nvidia_smi"].text.strip()
    version = re.search(r"<driver_version>([\d.]+)<", xml)
    if version is None:
        raise ValueError("the recording has no answer of nvidia-smi")
    folder = host.machine.root / SHOWN
    for path, content in {
        **_tables(recorded),
        "sys/module/nvidia/version": f"{version[1]}\n",
        "nvidia-smi.xml": f"{xml}\n",
        "compute": f"{recorded['nvidia_compute'].text.strip()}\n",
        "nvidia-smi": _SMI.format(shown=SHOWN),
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content.replace(version[1], driver or version[1]), encoding="utf-8")
    cards = xml.count("<product_name>")
    nodes = [*(f"nvidia{index}" for index in range(cards)), "nvidiactl", "nvidia-uvm"]
    host.sh(f"set -e\n{_COVER.format(shown=SHOWN, nodes=shlex.join(nodes))}")


def environment_of(host: FleetHost) -> str:
    """Return the path of the one environment of a host."""
    return host.sh(f"ls -d {PREFIX}/envs/[0-9a-f]*").strip()


def load_extensions(host: FleetHost, environment: str, *, limit_s: float = LOADING_S) -> dict[str, Any]:
    """Load each extension of an environment: the versions of torch and CUDA, and `outcome`, an error by extension, or an empty text."""
    (host.machine.root / "root/extensions.py").write_text(LOADER, encoding="utf-8")
    said = host.sh(f"{environment}/bin/python -I /root/extensions.py 2>/dev/null", timeout_s=limit_s)
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


def _tables(recorded: Output) -> dict[str, str]:
    """Return files below /sys by path: those of the bus, and those of the loaded modules."""
    files = {
        path.removeprefix("/"): f"{value}\n" for path, value in recorded["pci"].by_file() if path.startswith("/sys/")
    }
    # A directory instead of the link to the device: only its name is read.
    files |= {f"{link.removeprefix('/')}/shown": "" for link in recorded["pci"].values("driver")}
    return files | {f"sys/module/{name}/initstate": "live\n" for name in recorded["modules"].values("module")}
