"""What is read only to compare hosts: packages, settings, firmware and services."""

import subprocess
from pathlib import Path

from provision.core.models.facts import Configuration
from provision.phases.probe.assemble import parse
from provision.phases.probe.parsers import configuration, nvidia
from provision.phases.probe.reading import CONFIGURATION, script
from provision.phases.probe.sections import Section
from tests.waiting import PATIENCE_S


def section(text: str) -> Section:
    return Section(name="s", text=text, status=0)


def test_packages_of_both_managers_are_read() -> None:
    text = (
        "package=libc6:amd64|2.36-9|ii \npackage=old|1.0|rc \npackage=held|2|hi \n"
        "package=kernel|5.14-2.x86_64|ii\npackage=kernel|5.14-1.x86_64|ii\npackage=bash|1:|5.1-9.x86_64|ii\n"
    )
    assert configuration.packages(section(text)) == {
        "libc6:amd64": "2.36-9",
        "held": "2",
        "kernel": "5.14-1.x86_64, 5.14-2.x86_64",
        "bash": "1:5.1-9.x86_64",
    }


def test_settings_of_the_kernel_are_read() -> None:
    text = (
        "cmdline=quiet console=tty0 console=ttyS0 iommu=pt\n"
        "/sys/kernel/mm/transparent_hugepage/enabled:always [madvise] never\n"
        "/sys/devices/system/cpu/vulnerabilities/spectre_v1:Mitigation: usercopy/swapgs barriers\n"
    )
    assert configuration.kernel(section(text)) == {
        "cmdline.quiet": "",
        "cmdline.console": "tty0 ttyS0",
        "cmdline.iommu": "pt",
        "kernel/mm/transparent_hugepage/enabled": "madvise",
        "cpu/vulnerabilities/spectre_v1": "Mitigation: usercopy/swapgs barriers",
    }
    assert configuration.sysctl(section("/proc/sys/net/ipv4/tcp_rmem:4096\t131072\t6291456")) == {
        "net.ipv4.tcp_rmem": "4096 131072 6291456"
    }


def test_settings_of_the_driver_and_of_cards_are_read() -> None:
    text = '/proc/driver/nvidia/params:RegistryDwords: "a=/b"\n/sys/module/nvidia_uvm/parameters/uvm_disable_hmm:N\n'
    assert configuration.driver(section(text)) == {"RegistryDwords": '"a=/b"', "nvidia_uvm.uvm_disable_hmm": "N"}
    gpu = "<gpu><vbios_version>96.00</vbios_version><gpu_power_readings><current_power_limit>700.00 W</current_power_limit></gpu_power_readings></gpu>"
    found = nvidia.settings(section(f"<nvidia_smi_log>{gpu}</nvidia_smi_log>"))
    assert found == {"0.vbios_version": "96.00", "0.current_power_limit": "700.00 W"}
    assert nvidia.settings(section("")) == {}


def test_enabled_units_are_read() -> None:
    text = "ssh.service enabled enabled\nnvidia-persistenced.service masked enabled\n\n"
    assert configuration.units(section(text)) == {"ssh.service": "enabled", "nvidia-persistenced.service": "masked"}


def test_the_script_reads_this_machine_only_when_asked() -> None:
    def run(*, with_configuration: bool) -> Configuration | None:
        text = script(prefix="/p", groups=("group_files",), more={CONFIGURATION} if with_configuration else ())
        done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return parse("here", done.stdout).configuration

    assert run(with_configuration=False) is None
    found = run(with_configuration=True)
    assert found is not None
    assert found.packages is not None
    assert found.kernel
    assert found.sysctl
    for name in ("vm.swappiness", "kernel.pid_max"):
        value = Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
        assert found.sysctl[name] == value
