"""The unit as systemd holds it, compared with the planned one field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from verify.tables import table

SWITCHES = {"true": "yes", "on": "yes", "1": "yes", "false": "no", "off": "no", "0": "no"}
UNLIMITED = "18446744073709551615"
"""How releases before 229 show infinity."""
ARGV = re.compile(r"argv\[\]=(.*?) ; (?:ignore_errors|flags)=")
SPAN = re.compile(r"([\d.]+)\s*([a-z]*)")
OF_THE_TYPE = "/service.d/"
"""Folders of drop-ins for all services (systemd.unit(5)); distributions ship some."""


def properties() -> list[str]:
    """The names that `systemctl show` has to be asked for."""
    return [row["property"] for row in table("unit")["directive"].values()]


def differences(planned: Mapping[str, list[str]], shown: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Planned and effective value of each directive that differs.

    `planned` holds all values of each directive, `shown` what `systemctl show` says by property; a property that this
    release of systemd does not know is compared with nothing.
    """
    found = {}
    for directive, row in table("unit")["directive"].items():
        effective = shown.get(row["property"])
        values = planned.get(directive, [row["unset"]] if "unset" in row else None)
        if values is None or effective is None:
            continue
        wanted = " ".join(_after_reset(values))
        if not _alike(row["kind"], wanted, effective):
            found[directive] = (wanted, effective)
    return found


def drop_ins(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """The drop-ins of our unit by name, and those of all services."""
    listed = list(paths)
    return [path for path in listed if OF_THE_TYPE not in path], [path for path in listed if OF_THE_TYPE in path]


def _after_reset(values: list[str]) -> list[str]:
    last = max((place for place, value in enumerate(values) if not value), default=-1)
    return values[last + 1 :]


def _alike(kind: str, planned: str, effective: str) -> bool:
    if kind == "includes":
        return set(planned.split()) <= set(effective.split())
    if kind == "calls":
        calls = set(effective.split())
        named = {word for word in planned.split() if not word.startswith("@")}
        return bool(calls) and named <= calls and not calls & set(table("unit")["calls"]["outside"])
    spelled = SPELLINGS[kind]
    return bool(spelled(planned) == spelled(effective))


def _command(value: str) -> str:
    """The words of a command or of a file's name, as a unit and `systemctl show` write them: prefixes, quotes and escapes aside."""
    argv = ARGV.findall(value)
    text = " ".join(argv) if argv else re.sub(r" \(ignore_errors=\w+\)", "", value)
    plain = re.sub(r"[\"'\\]", "", re.sub(r"(?:^|(?<= ))[-+!@:]+(?=/)", "", text))
    return plain.replace("%%", "%").replace("$$", "$")


def _seconds(value: str) -> float | str:
    """Of a span as systemd reads and writes it; a number alone is in seconds."""
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
"""One spelling of a value, by its kind."""
