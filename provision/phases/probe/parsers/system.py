"""Operating system, C library and user; container, virtual machine, WSL and Secure Boot."""

import re
from collections.abc import Collection
from typing import Literal

from provision.core.models.facts import OperatingSystem, User
from provision.core.tables import own_table
from provision.phases.probe.parsers.values import KINDS, YES_NO, integer, known
from provision.phases.probe.sections import Output, Section

_MANAGERS: dict[str, Literal["apt", "dnf", "zypper", "apk"]]
_MANAGERS = {"apt-get": "apt", "dnf": "dnf", "zypper": "zypper", "apk": "apk"}


def os_release(section: Section) -> dict[str, str]:
    """Return the assignments of os-release, unquoted."""
    found: dict[str, str] = {}
    for line in section.lines():
        match = re.fullmatch(r"\s*([A-Z_]+)=(?:\"(.*)\"|'(.*)'|(.*))\s*", line)
        if match:
            quoted = next((group for group in match.groups()[1:] if group is not None), "")
            found[match[1]] = re.sub(r"\\(.)", r"\1", quoted)
    return found


def libc(section: Section) -> tuple[Literal["glibc", "musl"] | None, str | None]:
    """Return kind and version from the output of getconf, ldd or the musl loader."""
    text = section.text
    if re.search(r"\bmusl\b", text):
        match = re.search(r"^Version ([0-9.]+)", text, re.MULTILINE)
        return "musl", match[1] if match else None
    match = re.search(r"(?:glibc|GNU libc|GLIBC)\D*([0-9]+\.[0-9.]*[0-9])", text)
    return ("glibc", match[1]) if match else (None, None)


def operating_system(output: Output, unknown: dict[str, str]) -> OperatingSystem:
    release = os_release(output["os_release"])
    if not release:
        unknown["os.id"] = output["os_release"].failure
    system = output["system"]
    system.note_failure(unknown, "os.kernel")
    uname = (system.value("uname") or "").split()
    kind, version = libc(output["libc"])
    if kind is None:
        unknown["os.libc"] = output["libc"].reason or f"not recognised: {output['libc'].text.strip()[:80]!r}"
    state = output["systemd_state"]
    if "systemd_state" in output.sections:
        state.note_failure(unknown, "os.systemd_state", may_be_absent=True)
    return OperatingSystem(
        id=release.get("ID") or None,
        version_id=release.get("VERSION_ID") or None,
        id_like=tuple(release.get("ID_LIKE", "").split()),
        pretty_name=release.get("PRETTY_NAME") or None,
        kernel=uname[1] if len(uname) > 1 else None,
        machine=uname[2] if len(uname) > 2 else None,
        libc=kind,
        libc_version=version,
        init=system.value("init"),
        systemd_state=known(state.text.partition("\n")[0]) if state.ok else None,
        boot_id=system.value("boot_id"),
        clock_unix_s=output.clock,
        hostname=system.value("hostname"),
        package_manager=_MANAGERS.get(system.value("package_manager") or ""),
    )


def user(output: Output, unknown: dict[str, str]) -> User:
    system, sudo = output["system"], output["sudo_rights"]
    system.note_failure(unknown, "user.name")
    sudo.note_failure(unknown, "user.passwordless_sudo")
    return User(
        name=system.value("user"),
        uid=integer(system.value("uid")),
        home=system.value("home"),
        passwordless_sudo=YES_NO.get(sudo.value("passwordless") or "") if sudo.ok else None,
        lingering=YES_NO.get(system.value("lingering") or ""),
        systemd_manager=bool(system.values("systemd_user")) if system.ok else None,
        groups=tuple((system.value("groups") or "").split()) or None,
    )


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
    groups = "\n".join(section.values("cgroup"))
    rows = own_table(KINDS)["container"]
    return next((row["kind"] for row in rows if row.get("file") in files or row.get("cgroup", "\0") in groups), None)


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
    texts = {"dmi": named, "clocks": section.value("clocks") or ""}
    for row in own_table(KINDS)["machine"]:
        is_named = any(row[place] in text for place, text in texts.items() if place in row)
        if is_named and not (is_metal and row.get("rents_metal")):
            return str(row["kind"])
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
