"""hosts.yml: the Ansible inventory of a run, usable by hand, without secrets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision.core.install_paths import HOST_PYTHON
from provision.core.models.inventory import Host
from provision.fleet.ssh.openssh import ansible_variables
from provision.phases.install.playbook import PLAYBOOKS, ansible_playbook

CONTROLLER_PYTHON = "{{ ansible_playbook_python }}"
_FIRST_LINE = "{{ lookup('ansible.builtin.file', ansible_become_password_file).splitlines() | first }}"

_HEAD = """\
# What was planned for each host, as an Ansible inventory. The same by hand:
#   {command}
"""


class Verbatim(str):
    """Text that Ansible must not read as a template."""

    __slots__ = ()


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # the C one where libyaml is there
    pass


def _block_style(text: str) -> str | None:
    return "|" if "\n" in text else None


_Dumper.add_representer(
    Verbatim, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style=_block_style(text))
)
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_block_style(text))
)


def verbatim(value: Any) -> Any:
    """Return the value with every text that contains the opening of a template marked as verbatim."""
    if isinstance(value, str):
        return Verbatim(value) if any(opening in value for opening in ("{{", "{%", "{#")) else value
    if isinstance(value, Mapping):
        return {str(key): verbatim(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [verbatim(item) for item in value]
    return value


def host_variables(target: Target) -> dict[str, Any]:
    """Return all variables of one host."""
    connection = target.host.connection
    python = CONTROLLER_PYTHON if connection.kind == "local" else HOST_PYTHON
    variables = {"ansible_python_interpreter": python, **verbatim(ansible_variables(connection))}
    if (file := connection.become_password_file) is not None:
        # By reference: Ansible reads the file when the playbook runs.
        variables |= {"ansible_become_password_file": verbatim(file), "ansible_become_password": _FIRST_LINE}
    return {**variables, **verbatim(dict(target.variables))}


def render(targets: Sequence[Target], *, path: str) -> str:
    """Return the inventory's text; its head names `path`."""
    hosts = {target.host.name: host_variables(target) for target in targets}
    body: str = yaml.dump({"all": {"hosts": hosts}}, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    command = shlex.join([ansible_playbook(), "-i", path, str(PLAYBOOKS / "site.yml")])
    return _HEAD.format(command=command) + body


def render_secrets(secrets: Mapping[str, Mapping[str, str]]) -> str:
    """Return a second inventory with the passwords that are in memory only, for `memory_file`."""
    hosts = {name: {key: Verbatim(value) for key, value in values.items()} for name, values in secrets.items()}
    text: str = yaml.dump({"all": {"hosts": hosts}}, Dumper=_Dumper)
    return text


Progress = Callable[[str, str], None]
"""Called with host and current task, from the thread that called `install`."""


@dataclass(frozen=True)
class Target:
    """A host and the variables that the roles read (docs/reference/playbooks.md)."""

    host: Host
    variables: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def memory_file(text: str) -> Iterator[Path]:
    """Provide a path under which only processes of this user can read the text, while the block lasts."""
    descriptor = os.memfd_create("firstlight", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)  # an executable inventory would be run as a script
        file.write(text)
        file.flush()
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
