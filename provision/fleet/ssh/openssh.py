"""A resolved connection in OpenSSH's words, for bulk transfer and for Ansible, so that all of them reach a host the same way."""

from __future__ import annotations

import shlex
from typing import Any

from provision.core.models.settings import Connection


def ssh_command(connection: Connection, *, options: tuple[str, ...] = ()) -> list[str]:
    """`ssh` with everything that the connection says, up to and including the host; a command may follow."""
    interaction = () if connection.password is not None else ("-o", "BatchMode=yes")
    return ["ssh", "-T", *interaction, *options, *connection.openssh_options, "--", str(connection.address)]


def manual_command(connection: Connection) -> str:
    """The line that a person types to reach the host as the product does."""
    return shlex.join([*ssh_command(connection), "true"])


def manual_command_with_key_prompt(connection: Connection) -> str:
    """The line with which a person reaches the host as the product does, is shown its key, and has it kept after a yes."""
    asking = ("-o", "StrictHostKeyChecking=ask")  # of an option that is given twice OpenSSH takes the first
    return shlex.join(["ssh", *asking, *connection.openssh_options, "--", str(connection.address), "true"])


def ansible_variables(connection: Connection) -> dict[str, Any]:
    """The host variables that make Ansible reach a host as the sessions do.

    Passwords are not among them: Ansible is given those another way, out of files that are kept.
    """
    variables: dict[str, Any] = {"ansible_become": connection.become, "ansible_become_method": connection.become_method}
    if connection.python_interpreter is not None:
        variables["ansible_python_interpreter"] = connection.python_interpreter
    if connection.kind == "local":
        return variables | {"ansible_connection": "local"}
    return variables | {
        "ansible_connection": "ssh",
        "ansible_host": connection.address,
        "ansible_port": connection.port,
        "ansible_user": connection.user,
        "ansible_ssh_common_args": shlex.join(connection.openssh_options),
        # Whatever ansible.cfg or the environment says.
        "ansible_host_key_checking": True,
    }
