"""The service as text: a systemd unit, a unit of the user's own manager, or a supervisor configuration. Pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Literal

from provision.core.models.base import Record
from provision.core.models.settings import Settings
from provision.phases.serve.command_line import ServeCommand
from provision.phases.serve.options import options
from provision.phases.serve.tools import PREFLIGHT

UNIT = "firstlight-vllm.service"
PROGRAM = "firstlight-vllm"

Supervisor = Literal["systemd", "systemd-user", "supervisor", "none"]

_TEMPLATES = Path(__file__).parent / "templates"

_DEVICES = {
    "cpu": ("PrivateDevices=yes",),
    # PrivateDevices would hide the cards; the list below is all that the driver's libraries open.
    "cuda": ("DevicePolicy=closed", "DeviceAllow=char-nvidia* rwm", "DeviceAllow=char-drm rw"),
    "rocm": (
        "DevicePolicy=closed",
        "DeviceAllow=char-kfd rw",
        "DeviceAllow=char-drm rw",
        "SupplementaryGroups=video render",
    ),
}
"""Groups of /proc/devices, so that cards by any number are covered."""

_PREPARE = {
    # Device nodes are made on first use by a privileged program; the service itself could not make them.
    "cuda": ("ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0",),
}

_AFTER = {
    # A device group that is not loaded when the unit starts is not allowed later either.
    "cuda": (
        "modprobe@nvidia.service",
        "modprobe@nvidia_uvm.service",
        "nvidia-persistenced.service",
        "nvidia-fabricmanager.service",
    ),
    "rocm": ("modprobe@amdgpu.service",),
}

_SYSTEM_CALLS = {
    # Worker processes share device memory by handing over file descriptors and reading one another's memory.
    "cuda": ("pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"),
    "rocm": ("pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"),
}


class Service(Record):
    """What `install` writes to the host for the service, and the digest by which the next run knows it again."""

    supervisor: Supervisor
    name: str
    unit: str | None = None
    unit_path: str | None = None
    config: str | None = None
    environment: dict[str, str]
    """Lines of PREFIX/etc/service.env, without secrets."""
    api_key: bool
    digest: str


def render_service(
    command: ServeCommand, settings: Settings, *, prefix: str, supervisor: Supervisor, user: str, home: str
) -> Service:
    """The service for one host.

    `user` is who it runs as, `home` the home of the user who logs in (for a unit of their own).
    """
    unit = unit_path = config = None
    if supervisor == "systemd":
        unit, unit_path = system_unit(command, settings, prefix=prefix, user=user), f"/etc/systemd/system/{UNIT}"
    elif supervisor == "systemd-user":
        unit, unit_path = user_unit(command, settings, prefix=prefix, user=user), f"{home}/.config/systemd/user/{UNIT}"
    elif supervisor == "supervisor":
        config = supervisor_config(command, settings, prefix=prefix, user=user)
    return Service(
        supervisor=supervisor,
        name=PROGRAM if supervisor == "supervisor" else UNIT,
        unit=unit,
        unit_path=unit_path,
        config=config,
        environment=command.environment,
        api_key=settings.api_key,
        digest=_digest(supervisor, unit, config, command, settings.api_key),
    )


def system_unit(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> str:
    """A unit of the system's manager, with an account of its own and as little access as the devices allow."""
    platform = command.devices.platform
    neighbours = "".join(f" {name}" for name in _AFTER.get(platform, ()))
    return _fill(
        "system.service",
        prefix=prefix,
        user=user,
        wants=neighbours,
        after=neighbours,
        prepare="".join(f"{line}\n" for line in _PREPARE.get(platform, ())),
        preflight=systemd_line(preflight_argv(command, settings, prefix=prefix, user=user)),
        command=systemd_line(command.argv),
        protect_home="read-only" if _under_home(prefix) else "yes",
        system_calls="".join(f" {name}" for name in _SYSTEM_CALLS.get(platform, ())),
        devices="\n".join(_DEVICES[platform]),
    )


def user_unit(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> str:
    """A unit of the user's own manager; it needs lingering to outlive the session."""
    return _fill(
        "user.service",
        prefix=prefix,
        preflight=systemd_line(preflight_argv(command, settings, prefix=prefix, user=user)),
        command=systemd_line(command.argv),
    )


def supervisor_config(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> str:
    """A configuration for supervisord; the preflight loads service.env, takes on the user and becomes the server."""
    argv = (
        *preflight_argv(command, settings, prefix=prefix, user=user),
        "--environment-file",
        f"{prefix}/etc/service.env",
        "--",
        *command.argv,
    )
    return _fill("supervisord.conf", prefix=prefix.replace("%", "%%"), command=supervisor_line(argv))


def preflight_argv(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> tuple[str, ...]:
    """The check before each start. Standard library only: without site packages it is done in a moment."""
    argv = [f"{prefix}/current/bin/python", "-I", "-S", f"{prefix}/bin/{PREFLIGHT}"]
    argv += ["--prefix", prefix, "--user", user, "--bind", settings.bind, "--port", str(settings.port)]
    devices = command.devices
    if devices.platform != "cpu":
        share = settings.memory_share
        if "--gpu-memory-utilization" in command.argv:
            share = float(command.argv[command.argv.index("--gpu-memory-utilization") + 1])
        argv += ["--gpus", ",".join(map(str, devices.indexes))]
        argv += ["--memory-share", str(share if share is not None else options()["preflight"]["memory_share"])]
    return tuple(argv)


def systemd_line(argv: Sequence[str]) -> str:
    """A command as ExecStart= reads it: specifiers and variables escaped, words quoted where needed."""
    return " ".join(_quoted(word.replace("%", "%%").replace("$", "$$")) for word in argv)


def supervisor_line(argv: Sequence[str]) -> str:
    """A command as supervisord reads it: shell-like words, expansion by `%(...)s`, comments after blank and semicolon."""
    return " ".join(_quoted(word.replace("%", "%%")) for word in argv)


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+%$")


def _quoted(word: str) -> str:
    if word and set(word) <= _PLAIN:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _under_home(prefix: str) -> bool:
    return prefix.startswith(("/home/", "/root/", "/run/user/"))


def _fill(template: str, **values: str) -> str:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _digest(supervisor: Supervisor, unit: str | None, config: str | None, command: ServeCommand, api_key: bool) -> str:
    content = [supervisor, unit, config, command.argv, command.environment, api_key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
