"""What would stop a service later: units that conflict with it, timers, scheduled commands, a planned shutdown, the next boot. Pure functions."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone

from verify.serving.unit_differences import ARGV
from verify.tables import table

Units = Mapping[str, Mapping[str, str]]
"""Properties of the loaded units, by name."""
Read = Callable[[str], str]
"""Returns the text of a script; empty for other files."""
PROPERTIES = (
    "Id",
    "Names",
    "ActiveState",
    "Conflicts",
    "Requires",
    "Wants",
    "ExecStart",
    "Unit",
    "NextElapseUSecRealtime",
)


def units(shown: str) -> dict[str, dict[str, str]]:
    """Parse the output of `systemctl show` for several units; repeated properties are joined by a blank."""
    found = {}
    for block in shown.split("\n\n"):
        unit: dict[str, str] = {}
        for name, equals, value in (line.partition("=") for line in block.splitlines()):
            if equals:
                unit[name] = f"{unit[name]} {value}" if name in unit else value
        for name in unit.get("Names", unit.get("Id", "")).split():
            found[name] = unit
    return found


def conflicts(name: str, loaded: Units) -> Iterator[str]:
    """Yield units whose start stops a unit."""
    for other, unit in loaded.items():
        if (
            other == unit.get("Id")
            and other not in ("shutdown.target", name)
            and name in unit.get("Conflicts", "").split()
        ):
            yield f"{other} conflicts with it: a start of either one stops the other one"


def timers(name: str, loaded: Units, read: Read, own: Iterable[str]) -> Iterator[str]:
    """Yield active timers that start something which stops a unit; `own` are the units of this product."""
    for timer, unit in loaded.items():
        target = unit.get("Unit", "")
        if not timer.endswith(".timer") or unit.get("ActiveState") != "active" or target in own:
            continue
        for command in ARGV.findall(loaded.get(target, {}).get("ExecStart", "")):
            if line := stopping(name, command, read):
                when = unit.get("NextElapseUSecRealtime")
                yield f"{timer} starts {target}{f' at {when}' if when else ''}, which runs `{line}`"


def commands(name: str, files: Mapping[str, str], read: Read) -> Iterator[str]:
    """Yield lines of files of scheduled commands that stop a unit."""
    for path, text in files.items():
        for line in text.splitlines():
            if not line.lstrip().startswith("#") and (found := stopping(name, line, read)):
                yield f"{path} runs `{found}`"


def stopping(name: str, command: str, read: Read) -> str | None:
    """Return the command, or the line of a script that it names, which stops a unit; None without one."""
    rows = table("schedule")["command"]
    named = re.compile(rows["named"].replace("NAME", re.escape(name.rpartition(".")[0])))

    def stops(line: str) -> bool:
        return bool(named.search(line) and re.search(rows["verb"], line))

    if stops(command) or re.search(rows["host"], command):
        return command.strip()
    for word in command.split():
        if word.startswith("/"):
            for line in read(word).splitlines():
                if stops(line) and not line.lstrip().startswith("#"):
                    return f"{word}: {line.strip()}"
    return None


def shutdown(record: str) -> str | None:
    """Return the planned shutdown of logind's record; None without one."""
    fields = dict(line.partition("=")[::2] for line in record.splitlines())
    if not fields.get("USEC", "").isdigit():
        return None
    at = datetime.fromtimestamp(int(fields["USEC"]) / 1e6, timezone.utc)
    return f"the host has a planned {fields.get('MODE', 'shutdown')} at {at:%Y-%m-%d %H:%M:%S} UTC"


def is_reached(target: str, default: str, loaded: Units) -> bool:
    """Return whether the start of a target starts another one."""
    seen, left = set[str](), [default]
    while left:
        unit = left.pop()
        if unit == target:
            return True
        if unit not in seen:
            seen.add(unit)
            left += " ".join(loaded.get(unit, {}).get(kind, "") for kind in ("Requires", "Wants")).split()
    return False
