"""Container, virtual machine, WSL and Secure Boot."""

from __future__ import annotations

import re
from collections.abc import Collection

from provision.phases.probe.sections import Output, Section

# Parts of the path of process 1's control group, and the container engine that writes them.
_CGROUP_WORDS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("docker", "docker"),
    ("lxc", "lxc"),
    ("containerd", "containerd"),
)
_MARKS = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
# Texts that hypervisors write into the DMI tables.
_VENDORS = (
    ("qemu", "qemu"), ("kvm", "kvm"), ("vmware", "vmware"), ("virtualbox", "oracle"), ("innotek", "oracle"), ("xen", "xen"),
    ("amazon ec2", "amazon"), ("google compute engine", "google"), ("microsoft corporation virtual machine", "microsoft"),
)  # fmt: skip
_CLOCKS = (("kvm-clock", "kvm"), ("hyperv_clocksource", "microsoft"), ("xen", "xen"))


def container(section: Section, unknown: dict[str, str]) -> str | None:
    """Return the kind of container.

    Order of sources: Kubernetes' files, systemd's answer, marker files of container engines, control groups.
    """
    if not section.ok:
        unknown["container"] = section.failure
        return None
    files = section.values("file")
    detected = section.value("detected_container")
    if "/var/run/secrets/kubernetes.io" in files or section.value("kubernetes"):
        return "kubernetes"
    if detected and detected != "wsl":
        return None if detected == "none" else detected
    if named := section.value("systemd_container") or section.value("container_variable"):
        return named
    marks = [kind for path, kind in _MARKS.items() if path in files]
    groups = "\n".join(section.values("cgroup"))
    return next(iter(marks + [kind for word, kind in _CGROUP_WORDS if word in groups]), None)


def virtualization(section: Section, flags: Collection[str]) -> str | None:
    """Return the kind of virtual machine by systemd's names.

    Order of sources: systemd's answer, which in a container names that; the hypervisor's own file, the DMI tables, the clocks that the
    kernel knows, and the processor's flag that there is a hypervisor at all (CPUID leaf 1, ECX bit 31).

    Args:
        section: The section `isolation`.
        flags: The processor's flags.
    """
    if detected := section.value("detected_vm"):
        return None if detected == "none" else detected
    if hypervisor := section.value("hypervisor"):
        return hypervisor
    named = f"{section.value('sys_vendor') or ''} {section.value('product_name') or ''}".lower()
    clocks = section.value("clocks") or ""
    kinds = [kind for words, kind in _VENDORS if words in named] + [kind for word, kind in _CLOCKS if word in clocks]
    return next(iter(kinds), "vm-other" if "hypervisor" in flags else None)


def wsl(section: Section) -> bool | None:
    if not section.ok:
        return None
    kernel = (section.value("kernel_version") or "").lower()
    return "microsoft" in kernel or "/proc/sys/fs/binfmt_misc/WSLInterop" in section.values("file")


def secure_boot(output: Output, unknown: dict[str, str]) -> bool | None:
    """Return whether the firmware restricts the kernel to signed modules; False for a machine without UEFI."""
    section = output["secure_boot"]
    if value := section.value("efivar"):
        return value.split()[-1] == "1"
    text = section.text.lower()
    if match := re.search(r"secureboot (enabled|disabled)", text):
        return match[1] == "enabled"
    if "not supported" in text or section.value("firmware") == "other":
        return False
    unknown["secure_boot"] = section.reason or "the firmware's variables cannot be read here"
    return None
