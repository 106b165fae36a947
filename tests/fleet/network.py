"""The network of the test hosts: a bridge with its own addresses, and access to the outside only on request."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from dataclasses import dataclass

from tests.fleet.commands import command

_CANDIDATES = [ipaddress.ip_network(f"10.97.{third}.0/24") for third in range(20, 250)]


@dataclass(frozen=True, slots=True)
class Network:
    """One bridge. `name` is the name of the bridge and of the firewall table."""

    name: str
    subnet: str

    @property
    def gateway(self) -> str:
        """Return this machine's address in the network."""
        return str(next(ipaddress.ip_network(self.subnet).hosts()))

    def address(self, number: int) -> str:
        """The address of a host, numbered from 1."""
        return str(ipaddress.ip_network(self.subnet)[9 + number])

    @classmethod
    def make(cls, name: str) -> Network:
        """Make the bridge with addresses that this machine does not use."""
        in_use = [
            ipaddress.ip_interface(f"{address['local']}/{address['prefixlen']}").network
            for interface in json.loads(command("ip", "-j", "addr"))
            for address in interface.get("addr_info", [])
        ]
        subnet = next(
            one for one in _CANDIDATES if not any(one.version == used.version and one.overlaps(used) for used in in_use)
        )
        network = cls(name, str(subnet))
        command("ip", "link", "add", name, "type", "bridge")
        command("ip", "addr", "add", f"{network.gateway}/24", "dev", name)
        command("ip", "link", "set", name, "up")
        return network

    def open(self) -> None:
        """Let the hosts reach what this machine reaches."""
        command("sysctl", "-qw", "net.ipv4.ip_forward=1")
        rule = f'ip saddr {self.subnet} oifname != "{self.name}" masquerade'
        hook = "type nat hook postrouting priority 100; policy accept;"
        command("nft", "-f", "-", stdin=f"table ip {self.name} {{\n chain out {{\n  {hook}\n  {rule}\n }}\n}}\n")

    def remove(self) -> None:
        """Remove all of it; missing parts are no error."""
        with contextlib.suppress(FileNotFoundError):
            command("nft", "delete", "table", "ip", self.name, check=False)
        command("ip", "link", "delete", self.name, check=False)
