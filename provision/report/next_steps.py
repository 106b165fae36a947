"""Next commands: resume after a failure, check, undo, query the endpoint."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from provision.core.install_paths import default_prefix
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.invocation import Invocation
from provision.core.models.records import HostSummary

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
MOST_REPAIRS = 3
"""Maximum number of repairable hosts that are named."""
MOST_NAMED = 8
"""Maximum number of failed hosts in a --limit; a run over all hosts skips healthy ones anyway."""


def next_commands(invocation: Invocation, hosts: tuple[HostSummary, ...]) -> tuple[str, ...]:
    """Return commands for the hosts of the run, the most useful first."""
    marked = [host.name for host in hosts if host.state == "quarantined"]
    release = (f"{invocation.suggest('verify')} --release",) if marked else ()
    wrong = [host.name for host in hosts if host.state in ("failed", "unreachable", "interrupted")]
    if wrong:
        some = ",".join(wrong) if len(wrong) < len(hosts) and len(wrong) <= MOST_NAMED else None
        repairable = [host.name for host in hosts if host.name in wrong and _is_repairable(host)][:MOST_REPAIRS]
        repairs = tuple(f"{invocation.suggest('doctor', hosts=name)} --apply" for name in repairable)
        again = "provision" if invocation.knows("provision") else "verify"
        return (*repairs, invocation.suggest(again, hosts=some), *release)
    if all(host.state in ("planned", "probed", "stopped", "removed") for host in hosts):
        return (invocation.suggest("provision"),)
    return release + tuple(
        map(invocation.suggest, filter(invocation.knows, ("verify", "status", "rollback", "uninstall")))
    )


def _is_repairable(host: HostSummary) -> bool:
    """Return whether the doctor may repair the first cause after consent."""
    if not host.findings:
        return False
    from provision.report.diagnosis import is_repairable

    return is_repairable(host.findings[0])


PURPOSES = {
    "doctor": "repair",
    "provision": "provision",
    "verify": "check again",
    "status": "status",
    "rollback": "roll back",
    "uninstall": "remove",
}


def purpose(command: str) -> str:
    """Return the purpose of a command of `next_commands`."""
    return PURPOSES.get(command.split()[1], "run")


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


def call_commands(endpoint: str, file: str | None, host: Host, user: str | None) -> tuple[str, ...]:
    """Return commands that query the endpoint for its model; the key is read on the host at that moment."""
    base = endpoint.rstrip("/")
    url = f"{base}/models" if base.endswith("/v1") else f"{base}/v1/models"
    is_remote = host.connection.kind == "ssh"
    if file is None:
        header = ""
    else:
        sudo = "sudo " if host.connection.become or (user not in (None, "root") and file.startswith("/opt/")) else ""
        read = f"{sudo}sed -n s/^VLLM_API_KEY=//p {shlex.quote(file)}"
        command = f"{ssh_words(host.connection)} {shlex.quote(read)}" if is_remote else read
        header = f'-H "Authorization: Bearer $({command})" '
    curl = f"curl -sS {header}{shlex.quote(url)}"
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
