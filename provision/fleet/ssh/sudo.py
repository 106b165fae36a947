"""Shell wrapper of every command: time limit on the host, and root through sudo.

The sudo password is sent over stdin, never as an argument.
"""

import math
import os
from pathlib import Path

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection
from provision.core.redaction import register_secret

GRACE_S = 5
"""The host's limit is this much longer than ours; it only ends abandoned commands."""

_LONGEST_PASSWORD = 4096
_ENTERED = "\x1efirstlight-root\x1e"
"""Written to stderr by the root shell before the command: without it sudo refused, in any language."""

_SCRIPT = ("sh", "-s")
"""Runs a script on standard input, which ends itself in time."""

# In all of these $1 is the command, empty for such a script, $2 its limit in seconds, $3 the script of the root shell.
_SHELL = 'sh ${1:+-c} "${1:--s}"'
_LIMITED = f'if command -v timeout >/dev/null 2>&1; then exec timeout -s KILL "$2" {_SHELL}; fi; exec {_SHELL}'
_AS_ROOT = f"printf '{_ENTERED}' >&2; {_LIMITED}"
_ROOT_SHELL = 'sh -c "$3" sh "$1" "$2"'
_ROOT = f'if [ "$(id -u)" = 0 ]; then exec {_ROOT_SHELL}; fi; exec sudo -n -- {_ROOT_SHELL}'
# The shell takes the password off stdin, so that it never reaches the command. It is tried alone: sudo would take the command's input
# for further tries, and lock accounts. Hashing it is most of what sudo costs, and sudo remembers it for the shell that it runs below;
# where it may not, the password is given once more, by -k surely asked for. No exec there: sudo would no longer run below this shell.
_ROOT_WITH_PASSWORD = (
    f'IFS= read -r p; if [ "$(id -u)" = 0 ]; then exec {_ROOT_SHELL}; fi; '
    """printf '%s\\n' "$p" | sudo -S -p '' -- sh -c : || exit 1; """
    f"if sudo -n -- sh -c : 2>/dev/null </dev/null; then sudo -n -- {_ROOT_SHELL}; exit; fi; "
    f"""{{ printf '%s\\n' "$p"; exec cat; }} | sudo -k -S -p '' -- {_ROOT_SHELL}"""
)


def wrap(
    command: str, *, timeout_s: float, root: bool = False, password: str | None = None
) -> tuple[tuple[str, ...], str]:
    """Return the arguments that run a command, and the text that must come first on its stdin."""
    limit = str(math.ceil(timeout_s) + GRACE_S)
    if not root:
        return ("sh", "-c", _LIMITED, "sh", command, limit) if command else _SCRIPT, ""
    if password is None:
        return ("sh", "-c", _ROOT, "sh", command, limit, _AS_ROOT), ""
    return ("sh", "-c", _ROOT_WITH_PASSWORD, "sh", command, limit, _AS_ROOT), password + "\n"


def become_password(connection: Connection) -> str | None:
    """Return the sudo password, from memory or the file that Ansible's settings name.

    Raises:
        RemoteCommandError: The file cannot be read, or is executable.
    """
    if connection.become_password is not None:
        return connection.become_password.get_secret_value()
    if connection.become_password_file is None:
        return None
    try:
        with Path(connection.become_password_file).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o111:
                raise RemoteCommandError(
                    f"the sudo password file {connection.become_password_file} is executable: Ansible would run it for the password",
                    hint="name a file that contains the password and is not executable, or give the password with --ask-become-pass",
                )
            return register_secret(file.readline(_LONGEST_PASSWORD).rstrip("\n"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RemoteCommandError(
            f"the sudo password file {connection.become_password_file} cannot be read: {why}",
            hint="name a readable file, or give the password with --ask-become-pass",
        ) from None


def checked_stderr(host: str, stderr: bytes, *, had_password: bool) -> bytes:
    """Return the command's stderr without sudo's marker. Raises RemoteCommandError if sudo refused."""
    before, entered, after = stderr.partition(_ENTERED.encode())
    if entered:
        return after
    lines = before.decode(errors="replace").splitlines()
    message = " / ".join(line.strip() for line in lines if line.strip()) or "nothing"
    if had_password:
        raise RemoteCommandError(
            f"sudo on host {host} refused the password or the command; it said: {message}",
            hint="check ansible_become_password, or give the password with --ask-become-pass",
        )
    raise RemoteCommandError(
        f"sudo on host {host} wants a password or is not there; it said: {message}",
        hint="give the password with --ask-become-pass, or let the user use sudo without one",
    )
