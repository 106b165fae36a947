"""Loader of inventories: path, limit and command-line options in, validated hosts out."""

import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from provision.core import features
from provision.core.errors import InventoryError, UsageError
from provision.core.models.base import Record
from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.process import run_program
from provision.core.redaction import redact, scrub
from provision.core.scratch import scratch_folder
from provision.fleet.inventory import cache
from provision.fleet.inventory.connections import connection_of
from provision.fleet.inventory.services import as_services, is_of_machine, limit_of, variables_by_host
from provision.fleet.inventory.settings import PREFIX, Problems, settings_of

READER_DEADLINE_S = 120.0
"""Time limit of dynamic inventories, seconds."""
_OF_FOLDER = (
    "correct it; if it is no inventory, move it, or name the inventory's own file with -i: its group_vars are read too"
)
_RENAME = "name it otherwise, and say with ansible_host how it is reached"
YAML_SUFFIXES = (".yml", ".yaml", ".json")
_YAML_ERROR = re.compile(
    r"YAML parsing failed: (?P<why>.+)(?s:.*?)^Origin: (?P<file>/.+)(?P<at>:\d+:\d+)$", re.MULTILINE
)
_NO_INVENTORY = re.compile(r"^\[WARNING\]: (Failed to parse inventory with '(?!auto).+)$", re.MULTILINE)
_SKIPPED = re.compile(r"^\[WARNING\]: (?P<what>Skipping .*(?:group|mapping).*)$", re.MULTILINE)
"""What Ansible leaves out of an inventory, and with it hosts or settings."""


class ReadHost(Record):
    """A host as Ansible knows it, with variables that nobody has checked yet."""

    name: str
    groups: tuple[str, ...]
    variables: dict[str, Any]


class ReadInventory(Record):
    """What Ansible says of an inventory."""

    hosts: tuple[ReadHost, ...]
    become_password_file: str | None


def load(path: Path, *, limit: str | None = None, overrides: Mapping[str, Any] | None = None) -> Inventory:
    """Read an inventory: a file or a folder in any form that Ansible reads.

    Args:
        overrides: Settings by name, in place of those of the inventory; None takes one away. Services outside the limit keep their own.
            `become_password` (text, kept in memory only), with which all hosts become root, and `bundled_model` of `settings_of`
            are allowed as well.

    Raises:
        InventoryError: The inventory is malformed.
        UsageError: There is no inventory at the path, or the limit is empty.
    """
    _check_arguments(path, limit)
    options = dict(overrides or {})
    password, bundled = options.pop("become_password", None), options.pop("bundled_model", None)
    as_root = {} if password is None else {"become": True, "become_password": SecretStr(password)}
    within = limit_of(limit)
    key = cache.key(path, limit)
    kept = _restored(key)
    read = kept or ReadInventory.model_validate(_read(path, limit))
    _check_names([entry.name for entry in read.hosts])
    base = path if path.is_dir() else path.parent
    connections = _connections(read, base)
    if not read.hosts:
        raise _no_hosts(path, limit)
    problems = Problems()
    by_machine: dict[str, list[Host]] = {}
    for entry, reached in zip(read.hosts, connections, strict=True):
        connection = reached.model_copy(update=as_root)
        own = {name: value for name, value in entry.variables.items() if name.startswith(PREFIX)}
        found = by_machine[entry.name] = []
        for name, given in variables_by_host(entry.name, own, problems).items():
            # Beside a service within the limit, others of its machine keep settings of their own.
            is_within = within.keeps(name, entry.name)
            asked = {option: value for option, value in options.items() if is_within or is_of_machine(option)}
            settings = settings_of(
                name, variables=given, overrides=asked, base=base, problems=problems, bundled_model=bundled
            )
            if settings:
                found.append(Host(name=name, groups=entry.groups, connection=connection, settings=settings))
    problems.raise_any(lambda variable: _places(path, variable))
    hosts = [host for machine, found in by_machine.items() for host in as_services(machine, found)]
    within.require_known(hosts)
    hosts = [host for host in hosts if within.keeps(host.name, host.machine)]
    if not hosts:
        raise _no_hosts(path, limit)
    # Only now: what is refused because of a secret in it must not lie in the cache.
    if key and kept is None:
        _keep(key, read)
    if any(host.settings.span > 1 for host in hosts):
        # Which hosts belong together does not depend on the limit.
        names = {host.name for host in hosts}
        if limit is not None:
            hosts = [host for host in load(path, overrides=overrides).hosts if host.name in names]
        else:
            for with_spans in features.hooks("with_spans"):
                hosts = with_spans(hosts)
    return Inventory(source=str(path), hosts=tuple(hosts))


def _check_arguments(path: Path, limit: str | None) -> None:
    if not path.exists():
        raise UsageError(
            f"there is no inventory {path}",
            hint="give a file or folder with -i; ./firstlight init DIR writes an example",
        )
    if not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is neither a file nor a folder", hint="write the inventory to a file and name that")
    if limit is not None and not limit.strip():
        raise UsageError(
            "the limit names no host: it is empty", hint="name hosts or groups, or leave --limit out for all of them"
        )


def _no_hosts(path: Path, limit: str | None) -> InventoryError:
    of = f" within --limit {limit!r}" if limit else ""
    return InventoryError(
        f"the inventory {path} has no hosts{of}",
        hint="hosts stand below `hosts:` of a group, as in the example of ./firstlight init DIR",
    )


def _check_names(names: list[str]) -> None:
    """Raise InventoryError for a host name that cannot name files of a run, or that its records would hide."""
    for name in names:
        if "/" in name or name in {".", ".."} or not name.isprintable():
            raise InventoryError(
                f"host {name!r}: a name with `/` or characters that cannot be seen names no file of a run",
                hint=_RENAME,
            )
        if redact(name) != name:
            raise InventoryError(
                f"host {redact(name)!r}: records of a run would hide the name, because it looks like a secret or contains one",
                hint=_RENAME,
            )


def _restored(key: str | None) -> ReadInventory | None:
    """Return what the cache has; None where it has nothing, or a damaged entry."""
    try:
        return ReadInventory.model_validate(cache.get(key)) if key is not None else None
    except ValueError:
        return None


def _keep(key: str, read: ReadInventory) -> None:
    """Put what Ansible read into the cache, unless a password or another secret is in it."""
    document = read.model_dump(mode="json")
    has_password = any("pass" in name for host in read.hosts for name in host.variables)
    if not has_password and scrub(document) == document:
        cache.put(key, document)


def _read(path: Path, limit: str | None) -> dict[str, Any]:
    """Read the inventory with Ansible."""
    by_hand = f"try it by hand: {Path(sys.executable).with_name('ansible-inventory')} -i {path} --list"
    late = f"Ansible did not read the inventory {path} within {READER_DEADLINE_S:g} s"
    command = [sys.executable, "-P", str(cache.READER), str(path.absolute()), *([limit] if limit else [])]
    # The home may not be writable.
    with scratch_folder() as scratch:
        environment = os.environ | {
            "ANSIBLE_LOCAL_TEMP": str(scratch),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
            "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error",
            "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "LC_ALL": "C.UTF-8",
        }
        error = InventoryError(late, hint=by_hand)
        done = run_program(command, error, timeout_s=READER_DEADLINE_S, env=environment)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        message = [line for line in done.stderr.splitlines() if line.strip()]
        raise InventoryError(
            f"Ansible cannot read the inventory {path}: {message[-1] if message else 'it gave no reason'}",
            hint=by_hand,
        ) from None
    if "error" in answer:
        broken = _YAML_ERROR.search(done.stderr)
        # Ansible reads a file of another form as YAML too.
        if broken and (Path(broken["file"]).suffix in YAML_SUFFIXES or "with 'ini' plugin" not in done.stderr):
            raise InventoryError(
                f"{broken['file']}{broken['at']}: this is not valid YAML: {broken['why']}",
                hint="look at that line and the one before: indentation, a missing colon, an unquoted {{, a key that is set twice",
            )
        # Ansible reports the reason only as a warning
        why = _NO_INVENTORY.findall(done.stderr)
        answer["error"] += ": " + "; ".join(why) if why else ""
        hint = _OF_FOLDER if why and path.is_dir() else by_hand
        raise InventoryError(answer["error"], hint=answer["hint"] or hint)
    if skipped := _SKIPPED.search(done.stderr):
        raise InventoryError(
            f"Ansible does not read all of the inventory {path}: {skipped['what']}",
            hint="variables go below `vars:`, hosts below `hosts:`, each with a colon, as in the example of ./firstlight init DIR",
        )
    return answer


def _places(source: Path, variable: str) -> list[str]:
    """Return where a variable is set, as `file:line`."""
    setting = re.compile(rf"[^#]*\b{re.escape(variable)}\b[\"']?\s*[:=]")
    return [
        f"{file}:{number}"
        for file in cache.files_of(source)
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if setting.match(line)
    ]


def _connections(read: ReadInventory, base: Path) -> list[Connection]:
    """Return how each host is reached, in order."""

    def resolve(entry: ReadHost) -> Connection:
        connection = connection_of(entry.name, entry.variables, base)
        if connection.become_password is None and read.become_password_file:
            return connection.model_copy(update={"become_password_file": read.become_password_file})
        return connection

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(resolve, read.hosts))
