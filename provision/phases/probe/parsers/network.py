"""TCP listeners: from ss, or from the kernel's tables where ss is missing."""

from __future__ import annotations

import ipaddress
import re

from provision.core.models.facts import NOT_ASKED, Port
from provision.phases.probe.sections import Output

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
