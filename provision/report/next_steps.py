"""What a person types next, exactly: to go on where something went wrong, to check, to undo, to ask the endpoint."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from provision.core.models.facts import HostFacts
from provision.core.models.invocation import Invocation
from provision.core.models.records import HostSummary
from provision.core.models.settings import Connection, Host, default_prefix

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_REPAIRS = 3
"""So many hosts that can be mended are named one by one."""
MOST_NAMED = 8
"""More wrong hosts than this are not listed in a --limit: the whole run passes over what is well."""


def next_commands(invocation: Invocation, hosts: tuple[HostSummary, ...]) -> tuple[str, ...]:
    """Commands for the hosts of the run, in the order in which they are of use; the first one is the thing to do now."""
    wrong = [host.name for host in hosts if host.state in ("failed", "unreachable", "interrupted")]
    if wrong:
        some = ",".join(wrong) if len(wrong) < len(hosts) and len(wrong) <= MOST_NAMED else None
        repairable = [host.name for host in hosts if host.name in wrong and _is_repairable(host)][:MOST_REPAIRS]
        repairs = tuple(f"{invocation.suggest('doctor', hosts=name)} --apply" for name in repairable)
        again = "provision" if invocation.knows("provision") else "verify"
        return (*repairs, invocation.suggest(again, hosts=some))
    if all(host.state in ("planned", "probed", "stopped", "removed") for host in hosts):
        return (invocation.suggest("provision"),)
    return tuple(map(invocation.suggest, filter(invocation.knows, ("verify", "status", "rollback", "uninstall"))))


def _is_repairable(host: HostSummary) -> bool:
    """Whether the doctor may take the first cause away by itself, after a yes."""
    if not host.findings:
        return False
    from provision.report.diagnosis import is_repairable  # noqa: PLC0415 - only runs that failed pay for it

    return is_repairable(host.findings[0])


PURPOSES = {
    "doctor": "mend",
    "provision": "provision",
    "verify": "check again",
    "status": "what serves now",
    "rollback": "roll back",
    "uninstall": "remove",
}


def purpose(command: str) -> str:
    """What a command of `next_commands` is for."""
    return PURPOSES.get(command.split()[1], "run")


def prefix_of(host: Host | None, facts: HostFacts | None) -> str | None:
    """Where the product lies on a host: as the inventory says, as the probe saw it, or by default."""
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
    """The file on the host that holds the API key, where one is asked for."""
    return f"{prefix}/etc/service.env" if host and prefix and host.settings.api_key else None


def call_commands(endpoint: str, file: str | None, host: Host, user: str | None) -> tuple[str, ...]:
    """Commands that ask the endpoint which model it serves; the key is read on the host, at that moment."""
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
    """`ssh` with what reaches a host, short: address, user, port, key and jump hosts."""
    words = ["ssh"]
    if connection.port != 22:
        words += ["-p", str(connection.port)]
    for file in connection.identity_files[:1]:
        words += ["-i", file]
    if connection.proxy_jump:
        words += ["-J", ",".join(_jump(jump) for jump in connection.proxy_jump)]
    address = connection.address or ""
    return shlex.join([*words, f"{connection.user}@{address}" if connection.user else address])


def _jump(connection: Connection) -> str:
    user = f"{connection.user}@" if connection.user else ""
    port = f":{connection.port}" if connection.port != 22 else ""
    return f"{user}{connection.address}{port}"
