"""The planned service, as the installation recorded it when it went live (releases/DIGEST/release.json), and what systemd has loaded."""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.serving.service import Service
from verify.tables import table

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
    """Return the record of the live release."""
    link = prefix / "current"
    return prefix / (link.readlink().parent if link.is_symlink() else "") / "release.json"


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


SWITCHES = {"true": "yes", "on": "yes", "1": "yes", "false": "no", "off": "no", "0": "no"}
UNLIMITED = "18446744073709551615"
"""Infinity as releases before 229 show it."""
ARGV = re.compile(r"argv\[\]=(.*?) ; (?:ignore_errors|flags)=")
SPAN = re.compile(r"([\d.]+)\s*([a-z]*)")


def properties() -> list[str]:
    """Return the properties to request from `systemctl show`."""
    return [row["property"] for row in table("unit")["directive"].values()]


def differences(planned: Mapping[str, list[str]], shown: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return planned and effective value of each directive that differs, except those that this systemd does not know."""
    found = {}
    for directive, row in table("unit")["directive"].items():
        effective = shown.get(row["property"])
        values = planned.get(directive, [row["unset"]] if "unset" in row else None)
        if values is None or effective is None:
            continue
        reset = max((place for place, value in enumerate(values) if not value), default=-1)
        wanted = " ".join(values[reset + 1 :])
        if not _alike(row["kind"], wanted, effective):
            found[directive] = (wanted, effective)
    return found


def recorded(text: str) -> dict[str, str]:
    """Return the recorded properties that the plan does not decide (PREFIX/state.unit)."""
    apart = {*table("unit")["recorded"]["apart"], *properties()}
    return {name: value for name, value in shown_properties(text).items() if name not in apart}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return recorded and effective value of each property that differs, except those that this systemd does not show.

    The order of words does not matter: systemd prints sets in any order.
    """
    return {
        name: (was, now[name])
        for name, was in before.items()
        if sorted(now.get(name, was).split()) != sorted(was.split())
    }


def _alike(kind: str, planned: str, effective: str) -> bool:
    if kind == "includes":
        return set(planned.split()) <= set(effective.split())
    if kind == "calls":
        calls = set(effective.split())
        named = {word for word in planned.split() if not word.startswith("@")}
        return bool(calls) and named <= calls and not calls & set(table("unit")["calls"]["outside"])
    if kind == "least":
        return effective in ("infinity", UNLIMITED) or int(effective) >= int(planned)
    spelled = SPELLINGS[kind]
    return bool(spelled(planned) == spelled(effective))


def _command(value: str) -> str:
    """Return a command or file name without prefixes, quotes and escapes, as written in a unit or by `systemctl show`."""
    argv = ARGV.findall(value)
    text = " ".join(argv) if argv else re.sub(r" \(ignore_errors=\w+\)", "", value)
    plain = re.sub(r"[\"'\\]", "", re.sub(r"(?:^|(?<= ))[-+!@:]+(?=/)", "", text))
    return plain.replace("%%", "%").replace("$$", "$")


def _seconds(value: str) -> float | str:
    """Return the seconds of a systemd time span; a number without a unit is in seconds."""
    units: Mapping[str, float] = table("unit")["time"]
    parts = SPAN.findall(value)
    if not parts or any(unit and unit not in units for _, unit in parts):
        return value  # infinity
    return round(sum(float(number) * units[unit or "s"] for number, unit in parts), 6)


SPELLINGS: Mapping[str, Callable[[str], Any]] = {
    "text": str,
    "words": lambda value: set(value.split()),
    "switch": lambda value: SWITCHES.get(value, value),
    "number": lambda value: "infinity" if value == UNLIMITED else value,
    "octal": lambda value: int(value or "0", 8),
    "time": _seconds,
    "command": _command,
}
"""Converts values of each kind to a common form."""
