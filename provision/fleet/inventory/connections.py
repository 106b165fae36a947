"""Conversion of a host's Ansible variables to ssh arguments and a Connection."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, TypeAdapter, ValidationError

from provision.core.errors import InventoryError
from provision.core.models.inventory import Connection
from provision.core.user_path import expand_user
from provision.fleet.inventory.ssh_config import resolve

_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh")
_LOCAL = ("local", "ansible.builtin.local")
_BOOL = TypeAdapter(bool)


def connection_of(name: str, variables: Mapping[str, Any], base: Path) -> Connection:
    """Return one host's connection; `base` is the inventory's folder.

    Raises:
        InventoryError: A variable is wrong; the text names host and variable.
    """
    become = _become(name, variables)
    how = str(variables.get("ansible_connection", "ssh"))
    if how in _LOCAL:
        return Connection(kind="local", **become)
    if how not in _SSH:
        raise InventoryError(f"host {name}: ansible_connection: {how!r} is not supported", hint="allowed: ssh or local")
    for key in ("ansible_host_key_checking", "ansible_ssh_host_key_checking"):
        if key in variables and not _flag(name, key, variables[key]):
            raise InventoryError(
                f"host {name}: {key} is off; host keys are checked, always",
                hint="add the host's key to known_hosts, or use -o StrictHostKeyChecking=accept-new in ansible_ssh_common_args",
            )
    password = _first(variables, "ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
    target = str(_first(variables, "ansible_host", "ansible_ssh_host") or name)
    if not target or target.startswith("-") or any(character.isspace() for character in target):
        raise InventoryError(
            f"host {name}: ansible_host: {target!r} is no address", hint="a name or an IP address without blanks"
        )
    extra = become | {"password": SecretStr(str(password)) if password is not None else None}
    return resolve(name, target, _arguments(name, variables, base), named=_named(variables), **extra)


def _arguments(name: str, variables: Mapping[str, Any], base: Path) -> list[str]:
    """Return ssh arguments in Ansible's order: OpenSSH keeps the first value of each option."""
    arguments = _split(name, "ansible_ssh_args", variables)
    key = _first(variables, "ansible_ssh_private_key_file", "ansible_private_key_file")
    if key:
        arguments += ["-o", f'IdentityFile="{str(_key_file(name, str(key), base)).replace("%", "%%")}"']
    for extra in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        arguments += _split(name, extra, variables)
    return arguments


def _named(variables: Mapping[str, Any]) -> list[str]:
    """Return arguments for what has a variable of its own; OpenSSH refuses wrong values."""
    user, port, timeout = (
        _first(variables, f"ansible_{what}", f"ansible_ssh_{what}") for what in ("user", "port", "timeout")
    )
    values = {"-l": user, "-p": port, "-oConnectTimeout=": timeout}
    return [f"{option}{value}" for option, value in values.items() if value]


def _key_file(name: str, path: str, base: Path) -> Path:
    """Return a key file by its absolute path: from the working folder as in Ansible, else from the inventory's folder."""
    files = [folder / expand_user(path) for folder in dict.fromkeys((Path.cwd(), base.absolute()))]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        places = " or ".join(map(str, dict.fromkeys(files)))
        raise InventoryError(
            f"host {name}: ansible_ssh_private_key_file: there is no file {places}",
            hint="paths are absolute, from ~, from the working folder (as in Ansible), or from the inventory's folder",
        )
    return found


def _become(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    method = variables.get("ansible_become_method", "sudo")
    if method not in ("sudo", "ansible.builtin.sudo"):  # no set: what is no text may have no hash
        raise InventoryError(f"host {name}: ansible_become_method: {method!r} is not supported", hint="allowed: sudo")
    user = variables.get("ansible_become_user", "root")
    if user != "root":
        raise InventoryError(
            f"host {name}: ansible_become_user: {user!r}: this product becomes root or nobody", hint="allowed: root"
        )
    password = _first(variables, "ansible_become_password", "ansible_become_pass")
    python = variables.get("ansible_python_interpreter")
    return {
        "become": _flag(name, "ansible_become", variables.get("ansible_become", False)),
        "become_password": SecretStr(str(password)) if password is not None else None,
        "python_interpreter": None if python is None or str(python).startswith("auto") else str(python),
    }


def _flag(name: str, variable: str, value: Any) -> bool:
    try:
        return _BOOL.validate_python(False if value == "" else value)
    except ValidationError:
        raise InventoryError(
            f"host {name}: {variable}: {value!r} is neither yes nor no", hint="allowed: true or false"
        ) from None


def _split(name: str, variable: str, variables: Mapping[str, Any]) -> list[str]:
    try:
        return shlex.split(str(variables.get(variable) or ""))
    except ValueError as error:
        raise InventoryError(f"host {name}: {variable}: {error}", hint="close every quotation mark") from None


def _first(variables: Mapping[str, Any], *names: str) -> Any:
    return next((variables[name] for name in names if variables.get(name) is not None), None)
