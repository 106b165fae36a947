"""Operating system, C library and user."""

from __future__ import annotations

import re
from typing import Literal

from provision.core.models.facts import OperatingSystem, User
from provision.phases.probe.parsers.values import integer, known
from provision.phases.probe.sections import Output, Section

_MANAGERS: dict[str, Literal["apt", "dnf", "zypper", "apk"]] = {
    "apt-get": "apt",
    "dnf": "dnf",
    "zypper": "zypper",
    "apk": "apk",
}
_YES_NO = {"yes": True, "no": False}


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
    if not system.ok:
        unknown["os.kernel"] = system.failure
    uname = (system.value("uname") or "").split()
    kind, version = libc(output["libc"])
    if kind is None:
        unknown["os.libc"] = output["libc"].reason or f"not recognised: {output['libc'].text.strip()[:80]!r}"
    state = output["systemd_state"]
    if not state.ok and not state.absent and "systemd_state" in output.sections:
        unknown["os.systemd_state"] = state.failure
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
    if not system.ok:
        unknown["user.name"] = system.failure
    if not sudo.ok:
        unknown["user.passwordless_sudo"] = sudo.failure
    return User(
        name=system.value("user"),
        uid=integer(system.value("uid")),
        home=system.value("home"),
        passwordless_sudo=_YES_NO.get(sudo.value("passwordless") or "") if sudo.ok else None,
        lingering=_YES_NO.get(system.value("lingering") or ""),
        systemd_manager=bool(system.values("systemd_user")) if system.ok else None,
        groups=tuple((system.value("groups") or "").split()) or None,
    )
