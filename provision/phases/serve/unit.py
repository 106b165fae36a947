"""Text of the service: a systemd unit, a unit of the user's manager, or a supervisor configuration. Pure functions."""

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

STOP_S, RESTART_S = 60, 10
"""Seconds that a server has to end in, and between its end and its next start."""

_TEMPLATES = Path(__file__).parent / "templates"

_DEVICES = {
    "cpu": ("PrivateDevices=yes",),
    # PrivateDevices would hide the GPUs; the driver's libraries open only the devices in this list.
    "cuda": ("DevicePolicy=closed", "DeviceAllow=char-nvidia* rwm", "DeviceAllow=char-drm rw"),
    "rocm": (
        "DevicePolicy=closed",
        "DeviceAllow=char-kfd rw",
        "DeviceAllow=char-drm rw",
        "SupplementaryGroups=video render",
    ),
}
"""Groups of /proc/devices, so that GPUs with any number are covered."""

_BETWEEN_HOSTS = ("DeviceAllow=char-infiniband_verbs rw",)
"""NCCL's way to InfiniBand cards; without it the hosts of a span would speak TCP."""

_PREPARE = {
    # A privileged program creates device nodes on first use; the service itself may not.
    "cuda": ("ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0",),
}

_AFTER = {
    # systemd allows only device groups that are loaded when the unit starts.
    "cuda": (
        "modprobe@nvidia.service",
        "modprobe@nvidia_uvm.service",
        "nvidia-persistenced.service",
        "nvidia-fabricmanager.service",
    ),
    "rocm": ("modprobe@amdgpu.service",),
}

_SYSTEM_CALLS = {
    # Worker processes share device memory: they pass file descriptors and read one another's memory.
    "cuda": ("pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"),
    "rocm": ("pidfd_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev"),
}


class Service(Record):
    """Files of the service that `install` writes to the host, with a digest by which the next run detects changes."""

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
    """Return the service for one host.

    Args:
        user: Account that the service runs as.
        home: Home of the login user, for a unit of the user's manager.
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
    """Return a unit of the system manager: a separate account with as little access as the devices allow."""
    platform = command.devices.platform
    neighbours = "".join(f" {name}" for name in _AFTER.get(platform, ()))
    return _fill(
        "system.service",
        prefix=prefix,
        user=user,
        wants=neighbours,
        after=neighbours,
        mounts=_mounts(settings),
        prepare="".join(f"{line}\n" for line in _PREPARE.get(platform, ())),
        preflight=systemd_line(preflight_argv(command, settings, prefix=prefix, user=user)),
        command=systemd_line(started(command)),
        **_seconds(command),
        protect_home="read-only" if _under_home(prefix) or _under_home(settings.model_on_host or "") else "yes",
        system_calls="".join(f" {name}" for name in _SYSTEM_CALLS.get(platform, ())),
        devices="\n".join((*_DEVICES[platform], *(_BETWEEN_HOSTS if command.span and platform != "cpu" else ()))),
    )


def user_unit(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> str:
    """Return a unit of the user's manager; it needs lingering to outlive the session."""
    return _fill(
        "user.service",
        prefix=prefix,
        preflight=systemd_line(preflight_argv(command, settings, prefix=prefix, user=user)),
        command=systemd_line(started(command)),
        **_seconds(command),
    )


def supervisor_config(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> str:
    """Return a configuration for supervisord.

    The preflight loads service.env, switches to the user and becomes the server.
    """
    argv = (
        *preflight_argv(command, settings, prefix=prefix, user=user),
        "--environment-file",
        f"{prefix}/etc/service.env",
        "--",
        *started(command),
    )
    return _fill("supervisord.conf", prefix=prefix.replace("%", "%%"), command=supervisor_line(argv))


def started(command: ServeCommand) -> tuple[str, ...]:
    """Return the command that the service starts: the server's, or that of the program which starts it with other hosts."""
    if command.span is None:
        return command.argv
    return (*command.span.launcher, *(("--", *command.argv) if command.span.has_server else ()))


def preflight_argv(command: ServeCommand, settings: Settings, *, prefix: str, user: str) -> tuple[str, ...]:
    """Return the command of the check before each start; without site packages it takes only a moment."""
    argv = [f"{prefix}/current/bin/python", "-I", "-S", f"{prefix}/bin/{PREFLIGHT}"]
    argv += ["--prefix", prefix, "--user", user]
    if command.span is None or not command.span.is_headless:
        argv += ["--bind", settings.bind, "--port", str(settings.port)]
    devices = command.devices
    if devices.platform != "cpu":
        share = settings.memory_share
        if "--gpu-memory-utilization" in command.argv:
            share = float(command.argv[command.argv.index("--gpu-memory-utilization") + 1])
        argv += ["--gpus", ",".join(map(str, devices.indexes))]
        argv += ["--memory-share", str(share if share is not None else options()["preflight"]["memory_share"])]
    return tuple(argv)


def systemd_line(argv: Sequence[str]) -> str:
    """Return a command as ExecStart= reads it: specifiers and variables escaped, arguments quoted where needed."""
    return " ".join(_quoted(word.replace("%", "%%").replace("$", "$$")) for word in argv)


def supervisor_line(argv: Sequence[str]) -> str:
    """Return a command as supervisord reads it.

    supervisord splits like a shell, expands `%(...)s`, and starts a comment at a blank with semicolon.
    """
    return " ".join(_quoted(word.replace("%", "%%")) for word in argv)


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+%$")


def _quoted(word: str) -> str:
    if word and set(word) <= _PLAIN:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _seconds(command: ServeCommand) -> dict[str, str]:
    """Return the times of a unit."""
    given = options()["span"] if command.span else {"stop_s": STOP_S, "restart_s": RESTART_S}
    return {name: str(given[name]) for name in ("stop_s", "restart_s")}


def _mounts(settings: Settings) -> str:
    """Return the line that lets the service start after the mount that has its model."""
    return f"RequiresMountsFor={settings.model_on_host}\n" if settings.model_on_host else ""


def _under_home(prefix: str) -> bool:
    return prefix.startswith(("/home/", "/root/", "/run/user/"))


def _fill(template: str, **values: str) -> str:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _digest(supervisor: Supervisor, unit: str | None, config: str | None, command: ServeCommand, api_key: bool) -> str:
    content = [supervisor, unit, config, command.argv, command.environment, api_key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
