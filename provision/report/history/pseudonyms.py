"""Other names for hosts, people and addresses: the same one for the same thing everywhere. Pure.

Addresses go to networks that no machine may have (RFC 2544, RFC 3849), names to a domain that does not exist (RFC 2606).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping

_KEPT_NAMES = frozenset({"localhost", "root", "all", "ungrouped"})
"""Names that identify no machine."""
_KEPT_USERS = frozenset(
    {"root", "firstlight", "admin", "ubuntu", "debian", "ec2-user", "azureuser", "cloud-user", "rocky", "centos", "opc"}
)
"""Accounts of our own service and of distribution and cloud images; they identify no person."""
_V4 = re.compile(r"(?<![\w.=+-])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)(?![\w-])")
_V6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:.])")
_MAC = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")
_FIRST_V4 = ipaddress.IPv4Address("198.18.0.1")
_FIRST_V6 = ipaddress.IPv6Address("2001:db8::1")


class Pseudonyms:
    """Replaces known names, and every address found.

    Args:
        hosts: All other names of each host, by host.
        versions: Version numbers with four parts, which look like addresses.
    """

    def __init__(
        self,
        hosts: Mapping[str, Collection[str]],
        *,
        users: Iterable[str] = (),
        controller: str | None = None,
        versions: Collection[str] = (),
    ) -> None:
        self.given: dict[str, str] = {}
        """What was replaced, by what."""
        self._names: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._versions = frozenset(versions)
        for number, (name, others) in enumerate(hosts.items(), 1):
            for known in (name, *others):
                self._add_host(known, f"host-{number}")
        if controller:
            self._add_host(controller, "controller")
        self._add_domains()
        people = [user for user in dict.fromkeys(users) if user not in _KEPT_USERS]
        for number, user in enumerate(people, 1):
            self._names.setdefault(user.casefold(), f"user-{number}")
        longest_first = sorted(self._names, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._name = re.compile(rf"(?<![A-Za-z0-9_-])(?:{names})(?![A-Za-z0-9_-])", re.IGNORECASE)

    def _add_host(self, name: str, pseudonym: str) -> None:
        if name.casefold() in _KEPT_NAMES or not name:
            return
        try:
            self._address(name, ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            self._names.setdefault(name.casefold(), f"{pseudonym}.invalid" if "." in name else pseudonym)

    def _add_domains(self) -> None:
        """What a full name ends in names whose machine it is as well."""
        domains = dict.fromkeys(name.partition(".")[2] for name in self._names)
        for number, domain in enumerate((domain for domain in domains if "." in domain), 1):
            self._names.setdefault(domain, f"domain-{number}.invalid")

    def replace(self, text: str) -> str:
        """Return the text with pseudonyms."""
        text = self._name.sub(lambda found: self._give(found[0], self._names[found[0].casefold()]), text)
        text = _MAC.sub(self._hardware, text)
        text = _V4.sub(self._found_address, text)
        return _V6.sub(self._found_address, text)

    def _give(self, known: str, pseudonym: str) -> str:
        self.given[known] = pseudonym
        return pseudonym

    def _hardware(self, found: re.Match[str]) -> str:
        known = self._addresses.setdefault(found[0].lower(), f"02:00:00:00:00:{len(self._addresses) % 256:02x}")
        return self._give(found[0], known)

    def _found_address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:
            return found[0]
        if found[0] in self._versions and str(address) not in self._addresses:
            return found[0]
        return self._address(found[0], address)

    def _address(self, text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
        if address.is_loopback or address.is_unspecified or address == ipaddress.IPv4Address("255.255.255.255"):
            return text
        first: ipaddress.IPv4Address | ipaddress.IPv6Address = _FIRST_V4 if address.version == 4 else _FIRST_V6
        pseudonym = self._addresses.setdefault(str(address), str(first + len(self._addresses)))
        return self._give(text, pseudonym)
