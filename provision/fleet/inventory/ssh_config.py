"""Resolution of a host's connection by OpenSSH itself: `ssh -G` with the inventory's arguments."""

import os
import pwd
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.inventory import Connection
from provision.core.process import run_program
from provision.core.tables import own_table
from provision.fleet.ssh.openssh import unattended_options

TABLE = Path(__file__).with_name("ssh_options.toml")
MOST_JUMPS = 8
CONNECT_TIMEOUT_S = 10.0
ANSWER_S = 30.0
"""Seconds for `ssh -G`, which may run commands of the user's configuration."""
ALGORITHMS = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms")
_THROUGH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")

Resolved = dict[str, list[str]]


def read_ssh_config(name: str, target: str, arguments: Sequence[str]) -> Resolved:
    """Return the options of a host from `ssh -G`. Raises InventoryError if OpenSSH refuses the arguments or the configuration."""
    command = ["ssh", "-G", *arguments, "--", target]
    late = InventoryError(
        f"host {name}: `{shlex.join(command)}` did not end within {ANSWER_S:g} s",
        hint="look for a `Match exec` in your ssh configuration whose command hangs",
    )
    try:
        answer = run_program(command, late, timeout_s=ANSWER_S)
    except FileNotFoundError:
        raise InventoryError(
            "no ssh program on this machine", hint="install OpenSSH's client (Debian: openssh-client)"
        ) from None
    except ValueError as error:  # as a NUL in a file that is no text
        raise InventoryError(
            f"host {name!r}: its ssh arguments are no text: {error}", hint="look at its variables"
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
    named: Sequence[str] = (),
    depth: int = 0,
    **extra: Any,
) -> Connection:
    """Resolve the connection of a host, or of a jump host with `depth` hosts behind it.

    `named` are arguments for what the Connection has fields of its own for, and `extra` are further fields of it.

    Raises:
        InventoryError: OpenSSH refuses it, Fabric does not support it, or host keys would not be checked.
    """
    if depth > MOST_JUMPS:
        raise InventoryError(
            f"host {name}: more than {MOST_JUMPS} jump hosts follow one another; the last is {target}",
            hint="a jump host's own configuration may name itself as ProxyJump; look at `ssh -G` of each",
        )
    options = read_ssh_config(name, target, [*named, *arguments])
    _refuse(name, options)
    address, port, user = (_first(options, key) for key in ("hostname", "port", "user"))
    tokens = {"%": "%", "h": address, "p": port, "r": user, "n": target}
    jumps, proxy = _proxy(name, arguments, options, tokens, depth)
    timeout = _first(options, "connecttimeout", "none")
    known_hosts = _paths(options, "userknownhostsfile", tokens) + _paths(options, "globalknownhostsfile", tokens)
    strict = _first(options, "stricthostkeychecking")
    if strict == "accept-new" and (not known_hosts or known_hosts[0] == "/dev/null"):
        raise InventoryError(
            f"host {name}: StrictHostKeyChecking=accept-new without a file to remember keys in checks nothing",
            hint="let UserKnownHostsFile name a file",
        )
    agent = _first(options, "identityagent", "SSH_AUTH_SOCK")
    return Connection(
        kind="ssh",
        address=address,
        port=int(port),
        user=user,
        target=target,
        openssh_options=tuple(arguments),
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
        algorithms={key: tuple(_first(options, key).split(",")) for key in ALGORITHMS},
        proxy_jump=jumps,
        proxy_command=proxy,
        connect_timeout_s=CONNECT_TIMEOUT_S if timeout in ("none", "0") else float(timeout),
        **extra,
    )


def parse(text: str) -> Resolved:
    """Parse the output of `ssh -G`: every option with its values, in order."""
    parts = (line.partition(" ") for line in text.splitlines())
    return gather((key.lower(), value) for key, _, value in parts)


def _refuse(name: str, options: Resolved) -> None:
    for row in own_table(TABLE)["refused"]:
        for value in options.get(row["option"], []):
            if value not in row["fine"]:
                raise InventoryError(
                    f"host {name}: its ssh configuration says `{row['option']} {value}`; {row['why']}",
                    hint=row["remedy"],
                )


def _proxy(
    name: str, arguments: Sequence[str], options: Resolved, tokens: Mapping[str, str], depth: int
) -> tuple[tuple[Connection, ...], str | None]:
    """Return the jump hosts, which are checked as hosts are, and the command by which Fabric connects through them (`ssh -W`)."""
    command = _first(options, "proxycommand", "none")
    jumps = _first(options, "proxyjump", "none")
    if jumps == "none":
        return (), None if command == "none" else _with_tokens(command, tokens)
    *before, last = jumps.split(",")
    user, host, port = parse_jump(name, last)
    own = [*_configuration_file(arguments), *(("-J", ",".join(before)) if before else ())]
    named = [*(("-l", user) if user else ()), *(("-p", port) if port else ())]
    jump = resolve(f"{name} (jump host {host})", host, own, named=named, depth=depth + 1)
    to_host = f"[{tokens['h']}]:{tokens['p']}"
    way = shlex.join(jump.ssh_words(*_THROUGH, *unattended_options(jump), "-p", str(jump.port), "-W", to_host))
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


def _with_tokens(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub("%(.)", lambda token: tokens.get(token[1], token[0]), text)


def _expand(path: str, tokens: dict[str, str]) -> str:
    """Expand ~, %-tokens and ${VARIABLES} as OpenSSH does; a relative path starts at the working folder."""
    account = pwd.getpwuid(os.getuid())
    hostname = socket.gethostname()
    values = tokens | {
        "d": account.pw_dir,
        "u": account.pw_name,
        "i": str(account.pw_uid),
        "l": hostname,
        "L": hostname.split(".")[0],
        "k": tokens["h"],
    }
    path = re.sub(r"\$\{(\w+)\}", lambda name: os.environ.get(name.group(1), ""), path)
    path = _with_tokens(path, values)
    if path == "~" or path.startswith("~/"):
        return account.pw_dir + path[1:]
    return str(Path(path).expanduser().absolute())
