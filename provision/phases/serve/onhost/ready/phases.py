"""When each phase of a start ended, by the times in vLLM's own log. A part of ready.pyz."""

from __future__ import annotations

import json
import pkgutil
import re
import time
from typing import Any

RESOLUTION_S = 1.0
"""The log's times are whole seconds: a phase may seem to end so much before the process began."""


def phases(log: list[str], began: float) -> dict[str, float]:
    """Seconds from the start of the process to the end of each phase that the log tells of, in the order of time.

    `began` is that start as seconds since the epoch. A line of an earlier start is none of this one's.
    """
    table = _table()
    found: dict[str, float] = {}
    for phase in table["phase"]:
        mark = re.compile(table["prefix"] + phase["line"])
        last = max((_seconds(match["time"], began) for line in log if (match := mark.match(line))), default=None)
        if last is not None and last >= -RESOLUTION_S:
            found[phase["name"]] = max(0.0, last)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _seconds(written: str, began: float) -> float:
    """From the start to a time of the log, which names no year: the one that is nearest to the start."""
    year = time.localtime(began).tm_year
    moments = [
        time.mktime(time.strptime(f"{year + offset}-{written}", "%Y-%m-%d %H:%M:%S"))
        for offset in (-1, 0, 1)
        if not (written.startswith("02-29") and not _leap(year + offset))
    ]
    return min((moment - began for moment in moments), key=abs)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _table() -> dict[str, Any]:
    if (baked := _read("phases.json")) is not None:
        return json.loads(baked)  # type: ignore[no-any-return]
    import tomllib

    return tomllib.loads((_read("phases.toml") or b"").decode())


def _read(name: str) -> bytes | None:
    try:
        return pkgutil.get_data(__package__ or "ready", name)
    except OSError:  # zipimport raises no narrower one for a file that the archive does not hold
        return None
