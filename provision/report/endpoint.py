"""The endpoint of a host: where its key is, and the commands that send it a prompt."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import urlsplit

from provision.core.install_paths import default_prefix
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import ServeRecord

PROMPT = "Hello"
TOKENS = 32
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TYPED_OTHERWISE = frozenset(
    {
        "HostName",
        "Port",
        "User",
        "ConnectTimeout",
        "ServerAliveInterval",
        "ServerAliveCountMax",
        "HashKnownHosts",
        "StrictHostKeyChecking=yes",
    }
)
"""Options that a person does not type: address, port and user have a short form, a program needs limits, and the rest are defaults."""


def prefix_of(host: Host | None, facts: HostFacts | None) -> str | None:
    """Return the installation prefix on a host: from the inventory, from the probe, or the default."""
    if host and host.settings.prefix:
        return host.settings.prefix
    if facts and facts.installed:
        return facts.installed.prefix
    if host and host.connection.become:
        return str(default_prefix(uid=0, home=""))
    if facts and facts.user.uid is not None and facts.user.home:
        return str(default_prefix(uid=facts.user.uid, home=facts.user.home))
    return None


def key_file(host: Host | None, prefix: str | None) -> str | None:
    """Return the file on the host with the API key, where one is required."""
    return f"{prefix}/etc/service.env" if host and prefix and host.settings.api_key else None


def chat_commands(serve: ServeRecord, file: str | None, host: Host, user: str | None) -> tuple[str, ...]:
    """Return commands that send a short prompt to a host's service; the key is read on the host at that moment.

    Args:
        serve: The proof of the service.
        file: The file on the host with the key; None where none is required.
        host: The host.
        user: The login of the probe.

    Returns:
        The command for a tunnel, where one is needed, and the request; nothing where the model is not known.
    """
    if serve.endpoint is None or serve.model is None:
        return ()
    question: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]} if serve.chat else {"prompt": PROMPT}
    body = json.dumps({"model": serve.model, **question, "max_tokens": TOKENS}, separators=(",", ":"))
    url = f"{serve.endpoint}/{'chat/completions' if serve.chat else 'completions'}"
    is_remote = host.connection.kind == "ssh"
    header = ""
    if file is not None:
        sudo = "sudo " if host.connection.become or (user not in (None, "root") and file.startswith("/opt/")) else ""
        read = f"{sudo}sed -n s/^VLLM_API_KEY=//p {shlex.quote(file)}"
        command = f"{ssh_words(host.connection)} {shlex.quote(read)}" if is_remote else read
        header = f'-H "Authorization: Bearer $({command})" '
    kind = shlex.quote("Content-Type: application/json")
    curl = f"curl -sS {shlex.quote(url)} -H {kind} {header}-d {shlex.quote(body)}"
    parts = urlsplit(url)
    if not is_remote or parts.hostname not in LOOPBACK:
        return (curl,)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return (f"{ssh_words(host.connection)} -f -N -L {parts.port or 80}:{name}:{parts.port or 80}", curl)


def ssh_words(connection: Connection) -> str:
    """Return an `ssh` command line that reaches a host as this product does, whatever the configuration of who types it says."""
    words = ["ssh"]
    for flag, value in zip(connection.openssh_options[::2], connection.openssh_options[1::2], strict=False):
        if value not in TYPED_OTHERWISE and value.partition("=")[0] not in TYPED_OTHERWISE:
            words += [flag, value]
    words += ["-p", str(connection.port)] if connection.port != 22 else []
    address = connection.address or ""
    return shlex.join([*words, f"{connection.user}@{address}" if connection.user else address])
