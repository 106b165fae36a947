"""A run as one archive for a bug report: text only, secrets masked, optionally with pseudonyms.

Pseudonyms are the same for the same thing everywhere. Addresses go to networks that no machine may have (RFC 2544, RFC 3849), names to a
domain that does not exist (RFC 2606).
"""

from __future__ import annotations

import io
import ipaddress
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from provision import __version__
from provision.core.files import write_atomically
from provision.core.formatting import format_bytes
from provision.core.json_text import parse
from provision.core.redaction import redact, scrub
from provision.report.history.runs import document, objects
from provision.report.layout import count

LARGEST = 8 * 2**20
"""Maximum size of a file in bytes; larger files are left out and listed."""
LIST = "LEFT-OUT.txt"
_VERSIONS = re.compile(r"""==\s*([0-9][\w.+!-]*)|version"?\s*[:=]\s*"?([0-9][\w.+!-]*)""", re.IGNORECASE)


@dataclass
class Bundle:
    """A written archive and what its owner should know about it."""

    path: Path
    files: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """File and reason."""
    masked: list[str] = field(default_factory=list)
    """Files in which something was masked."""
    given: dict[str, str] = field(default_factory=dict)
    """Real names and their pseudonyms; for the owner, not in the archive."""


def bundle(folder: Path, target: Path, *, anonymous: bool = False) -> Bundle:
    """Write a run's folder as a compressed archive that only its owner can read.

    Raises:
        OSError: The archive cannot be written.
    """
    made = Bundle(target)
    texts = _texts(folder, made)
    names = _pseudonyms(folder, texts) if anonymous else None
    other: Callable[[str], str] = names.replace if names else lambda text: text
    root = other(f"firstlight-{folder.name}")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in texts.items():
            safe = _redacted(name, text)
            if safe != text and "[hidden]" in safe:
                made.masked.append(name)
            _add(archive, f"{root}/{other(name)}", other(safe))
        made.files = len(texts)
        made.left_out = [(other(name), reason) for name, reason in made.left_out]
        _add(archive, f"{root}/{LIST}", _list(made, anonymous=anonymous))
    made.given = dict(names.given) if names else {}
    write_atomically(target, content.getvalue(), mode=0o600)
    return made


def _texts(folder: Path, made: Bundle) -> dict[str, str]:
    """Return every text file of a run, by its relative path."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file():
            made.left_out.append((name, "a link or a special file"))
        elif path.stat().st_size > LARGEST:
            made.left_out.append(
                (name, f"{format_bytes(path.stat().st_size)}; files up to {format_bytes(LARGEST)} are taken")
            )
        else:
            try:
                content = path.read_bytes().decode()
            except UnicodeDecodeError:
                made.left_out.append((name, "not text: it cannot be searched for secrets"))
            except OSError as error:
                made.left_out.append((name, f"cannot be read: {error.strerror}"))
            else:
                texts[name] = content
    return texts


def _redacted(name: str, text: str) -> str:
    """Return the text without secrets; JSON is masked by key as well."""
    if name.endswith(".jsonl"):
        return "".join(_redacted_json(line) for line in text.splitlines(keepends=True))
    return _redacted_json(text, indent=2) if name.endswith(".json") else redact(text)


def _redacted_json(text: str, indent: int | None = None) -> str:
    try:
        return json.dumps(scrub(parse(text)), indent=indent) + "\n"
    except ValueError:
        return redact(text)


def _pseudonyms(folder: Path, texts: dict[str, str]) -> Pseudonyms:
    """Collect the names of machines and people in the run's records."""
    header, inventory = document(folder / "run.json"), document(folder / "inventory.json")
    hosts: dict[str, list[str]] = {}
    jumps: list[str] = []
    users = _texts_of(header, "user")
    for host in objects(inventory.get("hosts")):
        connection = _object(host, "connection")
        hops = [connection, *objects(connection.get("proxy_jump"))]
        for name in _texts_of(host, "name"):
            facts = document(folder / "facts" / f"{PurePath(name).name}.json")
            known = [*_texts_of(connection, "address", "host_key_alias"), *_texts_of(_object(facts, "os"), "hostname")]
            hosts[name] = known
            users += _texts_of(_object(facts, "user"), "name")
        users += [user for hop in hops for user in _texts_of(hop, "user")]
        jumps += [address for hop in hops[1:] for address in _texts_of(hop, "address")]
    for jump in jumps:
        hosts.setdefault(jump, [])
    versions = {version for text in texts.values() for pair in _VERSIONS.findall(text) for version in pair if version}
    return Pseudonyms(
        hosts, users=users, controller=next(iter(_texts_of(header, "controller")), None), versions=versions
    )


def _object(entry: dict[str, Any], key: str) -> dict[str, Any]:
    found = entry.get(key)
    return found if isinstance(found, dict) else {}


def _texts_of(entry: dict[str, Any], *keys: str) -> list[str]:
    """Return the non-empty text values of these keys."""
    return [value for key in keys if isinstance(value := entry.get(key), str) and value]


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    """Add a file without owner and time."""
    content = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))


def _list(made: Bundle, *, anonymous: bool) -> str:
    names = "replaced, the same everywhere" if anonymous else "as they are"
    lines = [
        f"Firstlight {__version__}: {count(made.files, 'file')} of a run.",
        "Secrets are masked: `[hidden]`. Never part of a run: the API key, passwords, wheels, models, the service's own log.",
        f"Names of hosts and people, and addresses: {names}.",
        "",
        "Left out:",
        *([f"  {name}: {reason}" for name, reason in made.left_out] or ["  nothing"]),
    ]
    return "\n".join(lines) + "\n"


def render(made: Bundle) -> str:
    """Return a report on the archive for its owner."""
    lines = [f"{made.path}: {count(made.files, 'file')}, {format_bytes(made.path.stat().st_size)}"]
    if made.masked:
        lines.append(f"masked in: {', '.join(made.masked)}")
    lines += [f"left out: {name}: {reason}" for name, reason in made.left_out]
    lines += [f"{pseudonym} is {known}" for known, pseudonym in sorted(made.given.items(), key=lambda pair: pair[1])]
    return "\n".join(lines)


def default_target(run: str, *, anonymous: bool) -> Path:
    """Return the default path of an archive, in the working folder."""
    return Path(f"firstlight-{run}{'-anonymous' if anonymous else ''}.tar.gz")


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
        # What a full name ends in names the machine as well.
        domains = dict.fromkeys(name.partition(".")[2] for name in self._names)
        for number, domain in enumerate((domain for domain in domains if "." in domain), 1):
            self._names.setdefault(domain, f"domain-{number}.invalid")
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
