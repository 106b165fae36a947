"""Text of the service: a systemd unit, a unit of the user's manager, or a supervisor configuration. Pure functions."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from provision.core.install_paths import unit_of
from provision.core.models.base import Record
from provision.core.models.settings import Settings, value_of
from provision.core.templates import text_templates
from provision.fleet.inventory.addresses import own_alone
from provision.phases.serve.command_line import ServeCommand
from provision.phases.serve.options import options
from provision.phases.serve.tools import PREFLIGHT

PROGRAM = "firstlight-vllm"

Supervisor = Literal["systemd", "systemd-user", "supervisor", "none"]

KEY = "VLLM_API_KEY"
"""The variable with the API key, which is made on the host."""

STOP_S, RESTART_S = 60, 10
"""Seconds that a server has to end in, and between its end and its next start."""

_HOMES = ("/home/", "/root/", "/run/user/")
_TEMPLATES = text_templates(Path(__file__).parent / "templates")


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
    command: ServeCommand,
    settings: Settings,
    *,
    prefix: str,
    supervisor: Supervisor,
    user: str,
    home: str,
    service: str | None = None,
    image: str | None = None,
) -> Service:
    """Return the service for one host.

    Args:
        user: Account that the service runs as.
        home: Home of the login user, for a unit of the user's manager.
        service: Its name; None where the machine has one service.
        image: ID of the image of its container; None where it runs on the host itself.
    """
    unit = unit_path = config = None
    name = unit_of(service)
    stem = name.removesuffix(".service")
    preflight = preflight_argv(command, settings, prefix=prefix, user=user)
    units = {"systemd": f"/etc/systemd/system/{name}", "systemd-user": f"{home}/.config/systemd/user/{name}"}
    if supervisor in units:
        times = options()["span"] if command.span else {"stop_s": STOP_S, "restart_s": RESTART_S}
        unit_path = units[supervisor]
        template = "system.service.j2" if supervisor == "systemd" else "user.service.j2"
        if image is not None:
            template, unit_path = "quadlet.container.j2", f"/etc/containers/systemd/{stem}.container"
        unit = _TEMPLATES.get_template(template).render(
            prefix=prefix,
            user=user,
            devices=command.devices,
            is_in_span=command.span is not None,
            is_under_home=any(path.startswith(_HOMES) for path in (prefix, settings.model_on_host or "")),
            mount=settings.model_on_host,
            preflight=systemd_line(preflight),
            command=systemd_line(started(command)),
            stop_s=times["stop_s"],
            restart_s=times["restart_s"],
            image=image,
            container=stem.replace("@", "-"),
            variables=sorted((*command.environment, *([KEY] if settings.api_key else []))),
        )
    elif supervisor == "supervisor":
        # The preflight loads service.env, switches to the user and becomes the server.
        argv = (*preflight, "--environment-file", f"{prefix}/etc/service.env", "--", *started(command))
        config = _TEMPLATES.get_template("supervisord.conf.j2").render(
            prefix=prefix.replace("%", "%%"), command=supervisor_line(argv)
        )
    content = [supervisor, unit, config, command.argv, command.environment, settings.api_key]
    return Service(
        supervisor=supervisor,
        name=PROGRAM if supervisor == "supervisor" else name,
        unit=unit,
        unit_path=unit_path,
        config=config,
        environment=command.environment,
        api_key=settings.api_key,
        digest=digest_of(json.dumps(content, sort_keys=True), own_alone(settings.bind)),
    )


def digest_of(text: str, address: str | None) -> str:
    """Return the digest of what is served, equal for hosts that differ by their own address alone, as firstlight_releases.py does."""
    text = re.sub(rf"(?<![\w.:]){re.escape(address)}(?!\w)", "ADDRESS", text) if address else text
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    if devices.part:
        argv += ["--slice", devices.part.uuid or ""]
    elif devices.platform != "cpu":
        share = value_of(command.argv, "--gpu-memory-utilization") or str(options()["preflight"]["memory_share"])
        argv += ["--gpus", ",".join(map(str, devices.indexes)), "--memory-share", share]
    return tuple(argv)


def systemd_line(argv: Sequence[str]) -> str:
    """Return a command as ExecStart= reads it: specifiers and variables escaped, arguments quoted where needed."""
    return " ".join(_quoted(word.replace("%", "%%").replace("$", "$$")) for word in argv)


def supervisor_line(argv: Sequence[str]) -> str:
    """Return a command as supervisord reads it.

    supervisord splits like a shell and expands `%(...)s`. Before that it cuts the line at `;` or `#` behind a blank, also between
    quotes (inline_comment_prefixes in supervisor/options.py, 4.3.0): the quotes end there and begin again.
    """
    return " ".join(re.sub(r"(?<=\s)(?=[;#])", '""', _quoted(word.replace("%", "%%"))) for word in argv)


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+%$")


def _quoted(word: str) -> str:
    if word and set(word) <= _PLAIN:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
