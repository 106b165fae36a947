"""Interpreters, programs and shared libraries for installing and serving; vLLM's processes; TCP listeners."""

import ipaddress
import re

from provision.core.models.facts import NOT_ASKED, CudaToolkit, EngineProcess, Port, Program, Python
from provision.phases.probe.parsers.values import YES_NO, integer, version
from provision.phases.probe.sections import Output, Section

_CUDA_RELEASE = re.compile(r"release [0-9.]+, V([0-9.]+)")


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
            release = _CUDA_RELEASE.search(said)
            found.append(Program(name=name, path=path, version=release[1] if release else version(said)))
    return tuple(found)


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
            said = said.partition("lacks=")[0]
            release = _CUDA_RELEASE.search(said)
            known = release[1] if release else version(said)
            found.setdefault(path, CudaToolkit(path=path, version=known, compat=bool(compat), lacks=lacks))
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
    titles = {
        int(pid): title.strip()
        for pid, title in re.findall(r"^/proc/([0-9]{1,10})/cmdline:(.*)$", section.text, re.MULTILINE)
    }
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
_TABLE_ROW = re.compile(r"^/proc/net/tcp6?:\s*[0-9]+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F:]+ 0A ")


def ports(output: Output, unknown: dict[str, str]) -> tuple[Port, ...]:
    """Return TCP ports with a listener, ordered by number; the owner is None where this user may not see it."""
    section = output["ports"]
    if not section.ok:
        asked = "ports" in output.sections or output.outcome != "ALL"
        unknown["ports"] = section.failure if asked else NOT_ASKED
    found: dict[tuple[int, str], Port] = {}
    for line in section.lines():
        port = _from_ss(line) or _from_table(line)
        if port:
            found.setdefault((port.port, port.address or ""), port)
    return tuple(port for _, port in sorted(found.items()))


def _from_ss(line: str) -> Port | None:
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


def _from_table(line: str) -> Port | None:
    match = _TABLE_ROW.match(line)
    if not match:
        return None
    # The kernel prints each 32-bit word of the address in the byte order of the machine.
    words = [match[1][at : at + 8] for at in range(0, len(match[1]), 8)]
    packed = b"".join(bytes.fromhex(word)[::-1] for word in words)
    return Port(port=int(match[2], 16), address=str(ipaddress.ip_address(packed)))
