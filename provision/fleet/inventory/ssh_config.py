"""Resolution of a host's connection by OpenSSH itself: `ssh -G` with the inventory's arguments."""

import functools
import os
import pwd
import re
import shlex
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.inventory import Connection
from provision.core.process import run_program
from provision.core.tables import own_table

TABLE = Path(__file__).with_name("ssh_options.toml")
MOST_JUMPS = 8
CONNECT_TIMEOUT_S = 10.0
ANSWER_S = 30.0
"""Seconds for `ssh -G`, which may run commands of the user's configuration."""
ALIVE_INTERVAL_S = 15
"""Default without a user's value: Ansible notices a lost host after 45 s."""

Resolved = dict[str, list[str]]


def read_ssh_config(name: str, target: str, arguments: Sequence[str]) -> Resolved:
    """Return the options of a host from `ssh -G`. Raises InventoryError if OpenSSH refuses the arguments or the configuration."""
    command = ["ssh", "-G", *arguments, "--", target]
    try:
        answer = _ssh(name, command)
    except FileNotFoundError:
        raise InventoryError(
            "no ssh program on this machine", hint="install OpenSSH's client (Debian: openssh-client)"
        ) from None
    except ValueError:
        raise InventoryError(
            f"host {name!r}: a name or an argument of it holds a NUL, as files that are no text do",
            hint="name an inventory with -i; inventory/example shows one",
        ) from None
    options = parse(answer.stdout)
    message = " / ".join(line for line in answer.stderr.splitlines() if "Pseudo-terminal" not in line)
    if answer.returncode != 0 or "hostname" not in options:
        raise InventoryError(
            f"host {name}: OpenSSH refuses its arguments or your configuration: {message or 'no reason given'}",
            hint=f"try it by hand: {shlex.join(command)}",
        )
    if options.get("host", [target]) != [target]:
        raise InventoryError(
            f"host {name}: its ssh arguments name another host, {options['host'][0]!r}",
            hint="ansible_ssh_common_args and the like hold options only; quote a value with blanks",
        )
    return options


def resolve(
    name: str,
    target: str,
    arguments: Sequence[str] = (),
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    depth: int = 0,
    **extra: Any,
) -> Connection:
    """Resolve the connection of a host, or of a jump host with `depth` hosts behind it; `extra` are further fields of the Connection.

    Raises:
        InventoryError: OpenSSH refuses it, Fabric does not support it, or host keys would not be checked.
    """
    if depth > MOST_JUMPS:
        raise InventoryError(
            f"host {name}: more than {MOST_JUMPS} jump hosts follow one another; the last is {target}",
            hint="a jump host's own configuration may name itself as ProxyJump; look at `ssh -G` of each",
        )
    options = read_ssh_config(name, target, arguments)
    _refuse(name, options)
    address, port, user = _first(options, "hostname"), int(_first(options, "port")), _first(options, "user")
    tokens = {"h": address, "p": str(port), "r": user, "n": target}
    jumps, proxy = _proxy(name, target, arguments, options, depth)
    given = [value for value in options.get("connecttimeout", []) if value != "none"]
    timeout = float(given[0]) if given else connect_timeout_s
    known_hosts = _paths(options, "userknownhostsfile", tokens) + _paths(options, "globalknownhostsfile", tokens)
    strict = _first(options, "stricthostkeychecking")
    if strict == "accept-new" and (not known_hosts or known_hosts[0] == "/dev/null"):
        raise InventoryError(
            f"host {name}: StrictHostKeyChecking=accept-new without a file to remember keys in checks nothing",
            hint="let UserKnownHostsFile name a file",
        )
    agent = _first(options, "identityagent", "SSH_AUTH_SOCK")
    connection = Connection(
        kind="ssh",
        address=address,
        port=port,
        user=user,
        identity_files=tuple(_expand(path, tokens) for path in options.get("identityfile", []) if path != "none"),
        certificate_files=tuple(_expand(path, tokens) for path in options.get("certificatefile", []) if path != "none"),
        identities_only=_first(options, "identitiesonly", "no") == "yes",
        identity_agent=None if agent == "SSH_AUTH_SOCK" else _agent(agent, tokens),
        known_hosts_files=tuple(known_hosts),
        host_key_alias=_first(options, "hostkeyalias") or None,
        accept_new_host_keys=strict == "accept-new",
        hash_known_hosts=_first(options, "hashknownhosts", "no") == "yes",
        address_family=_first(options, "addressfamily", "any"),  # type: ignore[arg-type]  # validated by the record
        bind_address=_first(options, "bindaddress") or None,
        algorithms={
            key: tuple(options[key][0].split(","))
            for key in own_table(TABLE)["algorithms"]
            if options.get(key) != _defaults().get(key)
        },
        proxy_jump=jumps,
        proxy_command=proxy,
        connect_timeout_s=timeout,
        **extra,
    )
    return connection.model_copy(update={"openssh_options": _as_options(connection, options)})


def parse(text: str) -> Resolved:
    """Parse the output of `ssh -G`: every option with its values, in order."""
    parts = (line.partition(" ") for line in text.splitlines())
    return gather((key.lower(), value) for key, _, value in parts)


@functools.cache
def _defaults() -> Resolved:
    """Return OpenSSH's defaults: options without any configuration."""
    return parse(_ssh("host", ["ssh", "-G", "-F", "none", "--", "host"]).stdout)


def _ssh(host: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    late = InventoryError(
        f"host {host}: `{shlex.join(command)}` did not end within {ANSWER_S:g} s",
        hint="look for a `Match exec` in your ssh configuration whose command hangs",
    )
    return run_program(command, late, timeout_s=ANSWER_S)


def _refuse(name: str, options: Resolved) -> None:
    for row in own_table(TABLE)["refused"]:
        for value in options.get(row["option"], []):
            if value not in row["fine"]:
                raise InventoryError(
                    f"host {name}: its ssh configuration says `{row['option']} {value}`; {row['why']}",
                    hint=row["remedy"],
                )


def _proxy(
    name: str, target: str, arguments: Sequence[str], options: Resolved, depth: int
) -> tuple[tuple[Connection, ...], str | None]:
    """Return the jump hosts, and the command that connects through them (`ssh -W`), used by Fabric and OpenSSH."""
    command = _first(options, "proxycommand", "none")
    jumps = _first(options, "proxyjump", "none")
    if jumps == "none":
        # %n is the name as typed, and later code only knows the address.
        literal = re.sub(r"%(.)", lambda token: target if token[1] == "n" else token[0], command)
        return (), None if command == "none" else literal
    *before, last = jumps.split(",")
    user, host, port = parse_jump(name, last)
    own = [*_configuration_file(arguments)]
    own += ["-J", ",".join(before)] if before else []
    own += ["-l", user] if user else []
    own += ["-p", port] if port else []
    jump = resolve(f"{name} (jump host {host})", host, own, depth=depth + 1)
    through = ["ssh", "-o", "BatchMode=yes", *jump.openssh_options]
    # the inner command is literal; only the last two tokens belong to this host
    literal = shlex.join(through).replace("%", "%%")
    way = f"{literal} -W '[%h]:%p' -- {shlex.quote(str(jump.address))}"
    return (*jump.proxy_jump, jump.model_copy(update={"proxy_jump": ()})), way


_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:/]+))(?::(?P<port>\d+))?/?")


def parse_jump(name: str, spec: str) -> tuple[str | None, str, str | None]:
    """Parse `[user@]host[:port]`; raise InventoryError for another form."""
    match = _JUMP.fullmatch(spec.strip())
    if match is None:
        raise InventoryError(f"host {name}: {spec!r} is no jump host", hint="write [user@]host[:port]")
    return match["user"], match["v6"] or match["host"], match["port"]


def _configuration_file(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return `-F FILE` of the arguments, which OpenSSH passes to jump hosts."""
    for place, argument in enumerate(arguments):
        if argument == "-F" and place + 1 < len(arguments):
            return ("-F", arguments[place + 1])
        if argument.startswith("-F") and len(argument) > 2:
            return (argument,)
    return ()


def _as_options(connection: Connection, options: Resolved) -> tuple[str, ...]:
    """Return arguments with which OpenSSH behaves equally without reading any configuration."""
    interval = _first(options, "serveraliveinterval")
    settings = [
        ("HostName", str(connection.address)),
        ("Port", str(connection.port)),
        ("User", str(connection.user)),
        ("StrictHostKeyChecking", "accept-new" if connection.accept_new_host_keys else "yes"),
        ("ConnectTimeout", f"{connection.connect_timeout_s:.0f}"),
        ("HashKnownHosts", "yes" if connection.hash_known_hosts else "no"),
        ("ServerAliveInterval", str(ALIVE_INTERVAL_S) if interval == "0" else interval),
        ("ServerAliveCountMax", _first(options, "serveralivecountmax")),
    ]
    if any(options.get(key) != _defaults().get(key) for key in ("userknownhostsfile", "globalknownhostsfile")):
        settings += [
            ("UserKnownHostsFile", " ".join(map(_quoted, connection.known_hosts_files)) or "none"),
            ("GlobalKnownHostsFile", "none"),
        ]
    if options.get("identityfile") != _defaults().get("identityfile"):
        settings += [("IdentityFile", _quoted(path)) for path in connection.identity_files]
    settings += [("CertificateFile", _quoted(path)) for path in connection.certificate_files]
    settings += [("IdentitiesOnly", "yes")] if connection.identities_only else []
    settings += [("IdentityAgent", _quoted(connection.identity_agent))] if connection.identity_agent else []
    settings += [("HostKeyAlias", connection.host_key_alias)] if connection.host_key_alias else []
    settings += [("ProxyCommand", connection.proxy_command)] if connection.proxy_command else []
    for key in own_table(TABLE)["passed_on"]:
        if key in options and options[key] != _defaults().get(key):
            settings += [(key, value) for value in options[key]]
    return ("-F", "none", *(word for key, value in settings for word in ("-o", f"{key}={value}")))


def _quoted(path: str) -> str:
    """Return a path as a value of ssh_config: tokens literal, blanks kept."""
    literal = path.replace("%", "%%")
    return f'"{literal}"' if re.search(r"\s", literal) else literal


def _first(options: Resolved, key: str, default: str = "") -> str:
    return next(iter(options.get(key, [])), default)


def _paths(options: Resolved, key: str, tokens: dict[str, str]) -> list[str]:
    """Split a value into paths; `ssh -G` prints blanks unescaped, so a part that starts no path belongs to the one before."""
    paths: list[str] = []
    for word in " ".join(options.get(key, [])).split(" "):
        if paths and word[:1] not in {"/", "~", "%", "$"}:
            paths[-1] += " " + word
        elif word and word != "none":
            paths.append(word)
    return [_expand(path, tokens) for path in paths]


def _agent(value: str, tokens: dict[str, str]) -> str:
    if value == "none":
        return value
    if value.startswith("$") and not value.startswith("${"):
        return os.environ.get(value[1:], "none")
    return _expand(value, tokens)


def _expand(path: str, tokens: dict[str, str]) -> str:
    """Expand ~, %-tokens and ${VARIABLES} as OpenSSH does; a relative path starts at the working folder."""
    account = pwd.getpwuid(os.getuid())
    hostname = socket.gethostname()
    values = tokens | {
        "%": "%",
        "d": account.pw_dir,
        "u": account.pw_name,
        "i": str(account.pw_uid),
        "l": hostname,
        "L": hostname.split(".")[0],
        "k": tokens["h"],
    }
    path = re.sub(r"\$\{(\w+)\}", lambda name: os.environ.get(name.group(1), ""), path)
    path = re.sub(r"%(.)", lambda token: values.get(token.group(1), token.group(0)), path)
    if path == "~" or path.startswith("~/"):
        return account.pw_dir + path[1:]
    return str(Path(path).expanduser().absolute())
