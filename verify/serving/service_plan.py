"""The planned service, as the installation recorded it when it went live: releases/DIGEST/release.json."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.serving.service import Service

CONTAINER = re.compile(r"^\[Container\]\n(?:(?!\[).*\n)*", re.MULTILINE)
"""The section of podman's generator in a unit (podman-systemd.unit(5)), which it turns into ExecStart=."""


@dataclass(frozen=True)
class ServicePlan:
    """The planned service. `unit` is the text of a unit, `config` that of supervisord; one of them is None."""

    supervisor: str
    name: str
    unit: str | None = None
    unit_path: str | None = None
    config: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of service.env, without secrets."""
    api_key: bool = True

    @property
    def argv(self) -> tuple[str, ...]:
        """The server's command, as the supervisor starts it."""
        if self.unit is not None:
            words = shlex.split(self.container.get("Exec", self.directives().get("ExecStart", []))[-1])
            return tuple(word.replace("%%", "%").replace("$$", "$") for word in words)
        words = [word.replace("%%", "%") for word in shlex.split(self._program()["command"])]
        return tuple(words[words.index("--") + 1 :])

    @property
    def user(self) -> str | None:
        """Account of the server; None for the supervisor's own account."""
        if self.unit is not None:
            return next(reversed((self.container or self.directives()).get("User", [])), None)
        words = shlex.split(self._program()["command"])
        return words[words.index("--user") + 1]

    def directives(self) -> dict[str, list[str]]:
        """The unit's directives, each with all its values; empty without a unit."""
        return directives(CONTAINER.sub("", self.unit or ""))

    @property
    def container(self) -> dict[str, list[str]]:
        """What podman's generator makes of the service's container; empty for a service of the host itself."""
        found = CONTAINER.search(self.unit or "")
        return directives(found[0]) if found else {}

    def _program(self) -> Mapping[str, str]:
        lines = (self.config or "").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith((";", "[")))


def directives(text: str) -> dict[str, list[str]]:
    """Return all values of each directive of a unit or drop-in, in order; an empty value resets a list."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";", "[")):
            found.setdefault(name.strip(), []).append(value.strip())
    return found


def shown_properties(text: str) -> dict[str, str]:
    """Return the properties of a unit from `systemctl show`; the values of a repeated one are joined by a blank."""
    return {name: " ".join(values) for name, values in directives(text).items()}


def record_of(prefix: Path) -> Path:
    """Return the record of the live release; earlier versions of this product kept it in the environment."""
    link = prefix / "current"
    target = link.readlink() if link.is_symlink() else None
    if target is not None and target.name == "environment":
        return prefix / target.parent / "release.json"
    return link / "service.json"


def read(service: Service) -> ServicePlan:
    """Read the plan of the live release's service. Raises OSError and ValueError."""
    document = json.loads(record_of(service.prefix).read_text())
    planned: Mapping[str, Any] = document["service"]
    return ServicePlan(**{name: planned[name] for name in ServicePlan.__dataclass_fields__ if name in planned})


def assignments(text: str) -> dict[str, str]:
    """Parse the variables of a file that live.py wrote: plain values, or double-quoted ones with escapes."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
    return found
