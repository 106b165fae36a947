"""Host key check against known_hosts files; it cannot be switched off.

Paramiko's policies lack revoked keys, certificate authorities and HostKeyAlias, and rewrite the whole file to add a key.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from provision.core.errors import HostKeyError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.known_hosts import KnownKey, add_known_key, fingerprint, known_keys, lookup_name
from provision.fleet.ssh.openssh import manual_command_with_key_prompt

SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""Key types whose signature algorithms have other names."""


def name_of(connection: Connection) -> str:
    """Return the known_hosts name of a connection."""
    return lookup_name(str(connection.address), connection.port, connection.host_key_alias)


def keys_of(connection: Connection) -> list[KnownKey]:
    """Return what the known_hosts files of a connection say about its host."""
    return known_keys(connection.known_hosts_files, name_of(connection))


def preferred_kinds(known: Sequence[KnownKey]) -> list[str]:
    """Return algorithms of known keys of a host; they are offered first, so that known keys are compared."""
    kinds: list[str] = []
    for key in known:
        if not key.marker:
            kinds += [kind for kind in SIGNATURES.get(key.kind, (key.kind,)) if kind not in kinds]
    return kinds


def check_host_key(host: str, connection: Connection, known: Sequence[KnownKey], kind: str, blob: bytes) -> None:
    """Check the key that a host shows; a new host is stored where the user's configuration allows it.

    Args:
        host: The host's name in the inventory.
        connection: How it is reached.
        known: What `keys_of` returned for it.
        kind: The type of the key.
        blob: The key.

    Raises:
        HostKeyError: The key is revoked, changed or unknown.
    """
    name = name_of(connection)
    revoked = [key for key in known if key.marker == "@revoked" and key.blob == blob]
    if revoked:
        raise HostKeyError(
            f"the key of host {host} ({name}) is revoked in {_places(revoked)}: {kind} {fingerprint(blob)}",
            hint="do not connect to this host before its administrator has given it a new key",
        )
    plain = [key for key in known if not key.marker]
    if any(key.blob == blob for key in plain):
        return
    if plain:
        raise _changed(host, connection, plain, kind, blob)
    authorities = [key for key in known if key.marker == "@cert-authority"]
    if authorities:
        raise HostKeyError(
            f"host {host} ({name}) is known only through a certificate authority ({_places(authorities)}), which the probing"
            f" connection cannot check; the host shows {kind} {fingerprint(blob)}",
            hint=f"add the host's own key, after comparing its fingerprint: {scan_command(connection)}",
        )
    if connection.accept_new_host_keys and connection.known_hosts_files:
        add_known_key(connection.known_hosts_files[0], name, kind, blob, hashed=connection.hash_known_hosts)
        return
    files = ", ".join(connection.known_hosts_files) or "no known_hosts file at all"
    raise HostKeyError(
        f"host {host} ({name}) is not known: it shows {kind} {fingerprint(blob)}, and none of its keys is in {files}",
        hint=f"compare the fingerprint with the host's own, then: {scan_command(connection)}",
    )


def _changed(host: str, connection: Connection, known: Sequence[KnownKey], kind: str, blob: bytes) -> HostKeyError:
    expected = "; ".join(f"{key.kind} {fingerprint(key.blob)} in {key.file}, line {key.line}" for key in known)
    return HostKeyError(
        f"the key of host {host} ({name_of(connection)}) has CHANGED: it shows {kind} {fingerprint(blob)}, known is {expected}."
        " Somebody may be listening in between, or the host was installed anew",
        hint=renewal_hint(connection),
    )


def renewal_hint(connection: Connection) -> str:
    """Return the commands after a key change: forget the old key, then add the new one."""
    name = name_of(connection)
    files = dict.fromkeys(key.file for key in keys_of(connection) if not key.marker)
    removals = [shlex.join(["ssh-keygen", "-R", name, "-f", file]) for file in files]
    return f"only if you know why it changed: {'; '.join([*removals, scan_command(connection)])}"


def scan_command(connection: Connection) -> str:
    """Return the command that adds a host's keys to the first known_hosts file.

    ssh-keyscan cannot use a proxy; behind one, OpenSSH connects and asks.
    """
    if connection.proxy_command is not None:
        return manual_command_with_key_prompt(connection)
    file = connection.known_hosts_files[0] if connection.known_hosts_files else "~/.ssh/known_hosts"
    port = ["-p", str(connection.port)] if connection.port != 22 else []
    scan = shlex.join(["ssh-keyscan", *port, str(connection.address)])
    if connection.host_key_alias:
        scan += f" | sed {shlex.quote(f's/^[^ ]*/{connection.host_key_alias}/')}"
    return f"{scan} >> {shlex.quote(file) if not file.startswith('~') else file}"


def _places(keys: Sequence[KnownKey]) -> str:
    return ", ".join(f"{key.file}, line {key.line}" for key in keys)
