"""Operating system, user, kind of machine, Secure Boot; interpreters, programs, libraries; processes, listeners."""

import re
from collections.abc import Collection
from typing import Literal

from provision.core.models.facts import (
    NOT_ASKED,
    CudaToolkit,
    EngineProcess,
    OperatingSystem,
    Port,
    Program,
    Python,
    User,
)
from provision.core.tables import own_table
from provision.phases.probe.parsers.values import KINDS, YES_NO, integer, known, version
from provision.phases.probe.sections import Output, Section

_MANAGERS: dict[str, Literal["apt", "dnf", "zypper", "apk"]]
_MANAGERS = {"apt-get": "apt", "dnf": "dnf", "zypper": "zypper", "apk": "apk"}
_CUDA_RELEASE = re.compile(r"release [0-9.]+, V([0-9.]+)")


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
    if section.value("firmware") == "other":
        return False
    unknown["secure_boot"] = section.reason or "the firmware's variables cannot be read here"
    return None


def pythons(section: Section, unknown: dict[str, str]) -> tuple[Python, ...]:
    section.note_failure(unknown, "pythons")
    found = []
    for line in section.values("python"):
        fields = line.split("|")
        if len(fields) >= 4 and version(fields[1]):
            path, number, headers, venv, *rest = fields
            torch = rest[0] if rest and version(rest[0]) else None
            found.append(
                Python(path=path, version=number, headers=YES_NO.get(headers), venv=YES_NO.get(venv), torch=torch)
            )
    return tuple(found)


def programs(section: Section, unknown: dict[str, str]) -> tuple[Program, ...]:
    section.note_failure(unknown, "programs")
    found = []
    for block in re.split(r"^program=", section.text, flags=re.MULTILINE)[1:]:
        name, _, rest = block.partition("|")
        path, _, said = rest.partition("|")
        if name and path.startswith("/"):
            found.append(Program(name=name, path=path, version=_release(said)))
    return tuple(found)


def _release(said: str) -> str | None:
    """Return the version that a program says; nvcc says several."""
    release = _CUDA_RELEASE.search(said)
    return release[1] if release else version(said)


def libraries(section: Section, unknown: dict[str, str]) -> dict[str, str | None]:
    """Return each requested library with its path or None."""
    section.note_failure(unknown, "libraries")
    paths: dict[str, str] = {}
    for path in section.values("found"):
        paths.setdefault(path.rpartition("/")[2], path)
    return {name: paths.get(name) for name in section.values("wanted")}


def cuda_toolkits(section: Section, compilers: tuple[Program, ...], unknown: dict[str, str]) -> tuple[CudaToolkit, ...]:
    """Return the toolkits under /usr/local; without any, that of an nvcc which a distribution installed elsewhere."""
    section.note_failure(unknown, "cuda_toolkits")
    found: dict[str, CudaToolkit] = {}
    for block in re.split(r"^toolkit=", section.text, flags=re.MULTILINE)[1:]:
        path, _, said = block.partition("\n")
        if path.startswith("/"):
            lacks = tuple(re.findall(r"^lacks=(.+)$", said, flags=re.MULTILINE))
            said, compat, _ = said.partition("compat=")
            named = _release(said.partition("lacks=")[0])
            found.setdefault(path, CudaToolkit(path=path, version=named, compat=bool(compat), lacks=lacks))
    for nvcc in compilers:
        folder = nvcc.path.removesuffix("/bin/nvcc")
        if nvcc.name == "nvcc" and not found and folder != nvcc.path:
            found[folder] = CudaToolkit(path=folder, version=nvcc.version)
    return tuple(found.values())


def engine_processes(section: Section, unknown: dict[str, str]) -> tuple[EngineProcess, ...]:
    section.note_failure(unknown, "engine_processes")
    status: dict[int, dict[str, str]] = {}
    for line in section.lines():
        match = re.fullmatch(r"/proc/([0-9]{1,10})/status:(Name|State|PPid|Uid):\s*(.*?)\s*", line)
        if match:
            status.setdefault(int(match[1]), {})[match[2]] = match[3]
    lines = re.findall(r"^/proc/([0-9]{1,10})/cmdline:(.*)$", section.text, re.MULTILINE)
    titles = {int(pid): title.strip() for pid, title in lines}
    names = {int(uid): name for name, uid in re.findall(r"^([a-z_][^:\s]*):([0-9]{1,10})$", section.text, re.MULTILINE)}
    found = []
    for pid, fields in sorted(status.items()):
        uid = integer(next(iter(fields.get("Uid", "").split()), None))
        found.append(
            EngineProcess(
                pid=pid,
                parent=integer(fields.get("PPid")),
                uid=uid,
                user=names.get(uid) if uid is not None else None,
                name=titles.get(pid) or fields.get("Name"),
                state=fields.get("State", "")[:1] or None,
            )
        )
    return tuple(found)


_OWNER = re.compile(r'users:\(\("((?:[^"\\]|\\.)*)",pid=([0-9]{1,10})')


def ports(output: Output, unknown: dict[str, str]) -> tuple[Port, ...]:
    """Return TCP ports with a listener, ordered by number; the owner is None where this user may not see it."""
    section = output["ports"]
    if not section.ok:
        asked = "ports" in output.sections or output.outcome != "ALL"
        unknown["ports"] = section.failure if asked else NOT_ASKED
    found: dict[tuple[int, str], Port] = {}
    for line in section.lines():
        port = _listener(line)
        if port:
            found.setdefault((port.port, port.address or ""), port)
    return tuple(port for _, port in sorted(found.items()))


def _listener(line: str) -> Port | None:
    fields = line.split()
    if len(fields) < 5 or fields[0] != "LISTEN":
        return None
    address, _, number = fields[3].rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", number):
        return None
    owner = _OWNER.search(line)
    return Port(
        port=int(number),
        address=address.strip("[]").partition("%")[0] or None,
        pid=int(owner[2]) if owner else None,
        process=owner[1] if owner else None,
    )
