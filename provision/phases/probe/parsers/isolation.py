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
# Texts in the DMI tables, and kinds of virtual machines by systemd's names. A name of the first table says more than the hypervisor does.
# The second table is for hypervisors that nothing else names.
_CLOUDS = (
    ("amazon ec2", "amazon"), ("google compute engine", "google"), ("virtualbox", "oracle"), ("innotek", "oracle"),
    ("xen", "xen"), ("vmware", "vmware"), ("microsoft corporation virtual machine", "microsoft"),
)  # fmt: skip
_HYPERVISORS = (("kvm", "kvm"), ("openstack", "kvm"), ("qemu", "qemu"), ("bochs", "bochs"))
_RENT_METAL = frozenset({"amazon", "google"})
"""Clouds whose machines without a hypervisor have the same DMI tables (systemd, src/basic/virt.c)."""
_CLOCKS = (("kvm-clock", "kvm"), ("hyperv_clocksource", "microsoft"), ("xen", "xen"))


def container(section: Section, unknown: dict[str, str]) -> str | None:
    """Return the kind of container.

    Order of sources: Kubernetes' files, the file that systemd writes, marker files of container engines, control groups.
    """
    if not section.ok:
        unknown["container"] = section.failure
        return None
    files = section.values("file")
    if "/var/run/secrets/kubernetes.io" in files or section.value("kubernetes"):
        return "kubernetes"
    named = section.value("systemd_container") or section.value("container_variable")
    if named and named != "wsl":
        return named
    marks = [kind for path, kind in _MARKS.items() if path in files]
    groups = "\n".join(section.values("cgroup"))
    return next(iter(marks + [kind for word, kind in _CGROUP_WORDS if word in groups]), None)


def virtualization(section: Section, flags: Collection[str]) -> str | None:
    """Return the kind of virtual machine by systemd's names, also of one that runs the container in which the section was read.

    Order of sources: the hypervisor's own file, names of clouds in the DMI tables, the clocks that the kernel knows, names of hypervisors
    in the DMI tables, and the processor's flag that there is a hypervisor at all (CPUID leaf 1, ECX bit 31).

    Args:
        section: The section `isolation`.
        flags: The processor's flags.
    """
    if hypervisor := section.value("hypervisor"):
        # The first guest of Xen drives the machine itself.
        return None if "control_d" in (section.value("xen_rights") or "") else hypervisor
    named = f"{section.value('sys_vendor') or ''} {section.value('product_name') or ''}".lower()
    has_hypervisor = "hypervisor" in flags
    # Only processors of x86 have the flag, and all of those have `fpu`.
    is_metal = ".metal" in named or ("fpu" in flags and not has_hypervisor)
    for names, text in ((_CLOUDS, named), (_CLOCKS, section.value("clocks") or ""), (_HYPERVISORS, named)):
        for words, kind in names:
            if words in text and not (is_metal and kind in _RENT_METAL):
                return kind
    return "vm-other" if has_hypervisor else None


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
