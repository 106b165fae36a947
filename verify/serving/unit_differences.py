"""Differences between the planned unit and the one systemd has loaded."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from verify.serving.service_plan import shown_properties
from verify.tables import table

SWITCHES = {"true": "yes", "on": "yes", "1": "yes", "false": "no", "off": "no", "0": "no"}
UNLIMITED = "18446744073709551615"
"""Infinity as releases before 229 show it."""
ARGV = re.compile(r"argv\[\]=(.*?) ; (?:ignore_errors|flags)=")
SPAN = re.compile(r"([\d.]+)\s*([a-z]*)")
OF_THE_TYPE = "/service.d/"
"""Folders of drop-ins for all services (systemd.unit(5)); distributions ship some."""


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


def drop_ins(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split drop-ins into those of our unit and those of all services."""
    listed = list(paths)
    return [path for path in listed if OF_THE_TYPE not in path], [path for path in listed if OF_THE_TYPE in path]


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
