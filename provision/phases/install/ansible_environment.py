"""The environment of ansible-playbook, independent of the user's ansible.cfg and ANSIBLE_* variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FORKS_AT_MOST = 32

CONFIG = "ansible.cfg"
"""Named so that Ansible searches no ansible.cfg of the user; the caller of Ansible writes it."""
CONFIG_TEXT = "[defaults]\ninternal_poll_interval = 0.01\n"
"""The one setting without a variable: a process that waits looks every 10 ms. At Ansible's 1 ms it takes an eighth of a core while it waits."""

KEPT = (
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
"""The only variables of the caller that are passed on, so that a playbook gets no tokens and keys."""


def ansible_settings(*, playbooks: Path, scratch: Path, hosts: int) -> dict[str, str]:
    """Return Ansible's settings. `scratch` is private and has a short path, since a control socket's path is limited to about 100 bytes."""
    return {
        "ANSIBLE_CONFIG": str(scratch / CONFIG),
        "ANSIBLE_HOME": str(scratch / "home"),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "ANSIBLE_ROLES_PATH": str(playbooks / "roles"),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_FORKS": str(max(1, min(hosts, FORKS_AT_MOST))),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_CACHE_PLUGIN": "memory",
        "ANSIBLE_ANY_ERRORS_FATAL": "False",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=20s",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(scratch / "cp"),
        "ANSIBLE_SSH_RETRIES": "2",
        # Also the wait for sudo's prompt: without a name server that answers, sudo looks for its host's name for 20 s.
        "ANSIBLE_TIMEOUT": "60",
        "ANSIBLE_NOCOLOR": "1",
        # The runner's callback wraps this one; else it would wrap the user's.
        "ORIGINAL_STDOUT_CALLBACK": "default",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "LC_ALL": "C.UTF-8",
    }


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the caller's environment that a playbook gets."""
    return {name: environment[name] for name in KEPT if name in environment}


def runner_additions(runner_environment: Mapping[str, str], caller: Mapping[str, str]) -> dict[str, str]:
    """Return what ansible-runner added to a copy of the caller's environment: its callback plugin and folders."""
    return {name: value for name, value in runner_environment.items() if caller.get(name) != value}
