"""Exporters of card vendors that a host has already (card_exporters.toml). Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from provision.core.tables import own_table

_SCRIPT = """
import sys, urllib.request
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
for place in sys.argv[1:]:
    address, sign = place.rsplit("=", 1)
    try:
        lines = ask(f"http://{address}/metrics", timeout=5).read().decode(errors="replace").splitlines()
    except OSError:
        continue
    if any(line.startswith(sign) for line in lines):
        print(address.rpartition(":")[2])
"""


def known_exporters() -> dict[int, str]:
    """Return by port how a line of an exporter's metrics begins."""
    return {row["port"]: row["sign"] for row in own_table(Path(__file__).with_name("card_exporters.toml"))["exporter"]}


def find_command(python: str, exporters: Mapping[int, str], address: str = "127.0.0.1") -> str:
    """Return a command that prints the ports at which exporters listen on a host.

    Args:
        python: An interpreter there; without one the command prints nothing.
        exporters: How a line of metrics begins, by port.
        address: The address to ask.
    """
    places = [f"{address}:{port}={sign}" for port, sign in exporters.items()]
    words = shlex.join([python, "-I", "-S", "-c", _SCRIPT, *places])
    return f"test ! -x {shlex.quote(python)} || {words}"


def parse_ports(said: str) -> tuple[int, ...]:
    """Return the ports that `find_command` printed."""
    return tuple(int(line) for line in said.split() if line.isdigit())
