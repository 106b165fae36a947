"""Reader program: reads an inventory with Ansible's libraries and prints it as JSON."""

# mypy: disable-error-code="import-untyped"
import difflib
import json
import re
import resource
import sys
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError, AnsibleValueOmittedError
from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import expand_hostname_range
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

OURS = "firstlight_"
TASKS = ("gateway", "monitoring")  # a host that is only in these gets no vLLM, whatever groups are above them
CONNECTION = (
    *("ansible_connection", "ansible_host", "ansible_ssh_host", "ansible_port", "ansible_ssh_port"),
    *("ansible_user", "ansible_ssh_user", "ansible_password", "ansible_ssh_pass", "ansible_ssh_password"),
    *("ansible_private_key_file", "ansible_ssh_private_key_file", "ansible_ssh_args", "ansible_ssh_common_args"),
    *("ansible_ssh_extra_args", "ansible_timeout", "ansible_ssh_timeout", "ansible_host_key_checking"),
    *("ansible_ssh_host_key_checking", "ansible_python_interpreter", "ansible_become", "ansible_become_user"),
    *("ansible_become_method", "ansible_become_pass", "ansible_become_password"),
)

_MOST_MEMORY = 4 << 30
"""Bytes for what an inventory says, as aliases in YAML and ranges of hosts multiply; what a program only reserves does not count."""


class Refused(Exception):  # noqa: N818  # becomes the caller's error
    """A refusal, with the message for the user."""

    def __init__(self, error: str, hint: str | None = None) -> None:
        super().__init__(error)
        self.answer = {"error": error, "hint": hint}


def read(source: str, limit: str | None) -> dict[str, Any]:
    """The inventory as plain values. Raises Refused, AnsibleError."""
    loader = DataLoader()
    _unlock(loader)
    init_plugin_loader()
    inventory = InventoryManager(loader=loader, sources=[source])
    variables = VariableManager(loader=loader, inventory=inventory)
    HostVars(inventory, variables, loader)  # makes itself known to the manager
    if limit:
        inventory.subset(checked_limit(inventory, limit))
    # Ansible's own order is that of a set of groups, another one in each process.
    place = {name: number for number, name in enumerate(inventory.hosts)}
    hosts = sorted(inventory.list_hosts("all"), key=lambda host: place.get(host.name, len(place)))
    return {
        "hosts": [_host(host, loader, variables) for host in hosts],
        "become_password_file": constants.config.get_config_value("BECOME_PASSWORD_FILE"),
    }


def _unlock(loader: DataLoader) -> None:
    """Give the loader the vault passwords from the files named in ansible.cfg or the environment; never prompt."""
    identities = list(constants.DEFAULT_VAULT_IDENTITY_LIST or [])
    if constants.DEFAULT_VAULT_PASSWORD_FILE:
        identities.append(f"default@{constants.DEFAULT_VAULT_PASSWORD_FILE}")
    if identities:
        from ansible.cli import CLI

        loader.set_vault_secrets(CLI.setup_vault_secrets(loader, vault_ids=identities, auto_prompt=False))


def _host(host: Any, loader: DataLoader, manager: VariableManager) -> dict[str, Any]:
    everything = manager.get_vars(host=host)
    templar = Templar(loader=loader, variables=everything)
    target_host = {}
    for name in everything:
        if name.startswith(OURS) or name in CONNECTION:
            try:
                target_host[name] = plain(templar.template(everything[name]))
            except AnsibleValueOmittedError:
                continue
            except AnsibleError as error:
                raise Refused(
                    f"host {host.name}: {name} cannot be evaluated: {_one_line(error)}",
                    _vault_hint(error) or "every variable that a template uses must be set for that host",
                ) from error
    groups = [group for group in host.get_groups() if group.name != "all"]
    does_more = any(host.name in group.host_names for group in groups if group.name not in TASKS)
    return {
        "name": str(host.name),
        "groups": [str(group.name) for group in groups if does_more or group.name in TASKS],
        "variables": target_host,
    }


def plain(value: Any) -> Any:
    """A value without Ansible's own types, every template in it evaluated."""
    if isinstance(value, dict):
        return {str(key): plain(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def checked_limit(inventory: InventoryManager, limit: str) -> list[str]:
    """The patterns of a limit as Ansible understands them; `gpu-[1:4]` may also be the hosts so written in the inventory.

    Raises Refused when one of them is empty, broken, or names nothing: Ansible drops such a pattern, and where none is
    left it takes every host.
    """
    parts = split_host_pattern(limit)
    if not parts or any(not part.strip() for part in limit.split(",")) or limit.count("[") != limit.count("]"):
        raise Refused(
            f"--limit: {limit!r} cannot be used: one of its patterns is empty, or a bracket has no partner",
            "name hosts or groups: --limit gpu-1,gpu-2",
        )
    return [pattern for part in parts for pattern in _selected(inventory, part)]


def _selected(inventory: InventoryManager, part: str) -> list[str]:
    """One pattern, or the hosts of its range; of MACHINE@SERVICE the machine, whose services only the caller knows."""
    sign = part[0] if part[0] in "!&" else ""
    pattern = part[len(sign) :]
    expanded = _hosts_of_range(inventory, pattern)
    if expanded is not None and sign == "&":
        # Ansible intersects with each pattern that has this sign.
        return [f"&~({'|'.join(map(re.escape, expanded))})$"]
    if expanded is not None:
        return [sign + name for name in expanded]
    if _matches(inventory, pattern):
        return [part]
    machine, _, service = pattern.rpartition("@")
    if service and machine in inventory.hosts:
        return [] if sign == "!" else [sign + machine]
    raise _unknown(inventory, pattern)


def _matches(inventory: InventoryManager, pattern: str) -> bool:
    """Whether a pattern names hosts of this inventory: never the host that Ansible makes up for `localhost`."""
    if not pattern.removeprefix("~") or pattern[0] in "!&":
        return False
    try:
        return any(host.name in inventory.hosts for host in inventory.list_hosts(pattern))
    except (AnsibleError, IndexError):  # the latter for a sign without a name after a colon
        return False


def _hosts_of_range(inventory: InventoryManager, pattern: str) -> list[str] | None:
    head, bracket, _ = pattern.partition("[")
    if not bracket or pattern.startswith("~") or head in inventory.groups:
        return None
    try:
        names = expand_hostname_range(pattern)
    except (AnsibleError, ValueError):  # the latter where brackets or numbers are none
        return None
    if len(names) < 2:
        return None
    missing = [name for name in names if name not in inventory.hosts]
    if missing:
        raise _unknown(inventory, missing[0])
    return [str(name) for name in names]


def _unknown(inventory: InventoryManager, pattern: str) -> Refused:
    names = [*inventory.hosts, *(group for group in inventory.groups if group != "ungrouped")]
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    shown = ", ".join(near or names[:8])
    return Refused(
        f"{pattern!r} matches no host or group of this inventory",
        f"{'most similar' if near else 'there are'}: {shown}",
    )


def _one_line(error: AnsibleError) -> str:
    return " ".join(str(error).split())


def _vault_hint(error: AnsibleError) -> str | None:
    if "vault" in str(error).lower() or "decrypt" in str(error).lower():
        return "name a file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE or ansible.cfg"
    return None


def main() -> None:
    """Print the answer. What Ansible says of its own accord goes to stderr, errors with the place in their file."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    try:
        answer = read(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    except Refused as refused:
        answer = refused.answer
    except AnsibleError as error:
        sys.stderr.write(f"{error}\n{getattr(error.__context__, '_formatted_source_context', '')}\n")
        answer = {"error": _one_line(error), "hint": _vault_hint(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
