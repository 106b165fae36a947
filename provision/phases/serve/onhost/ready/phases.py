"""Ends of the startup phases, from the times in vLLM's log. A part of ready.pyz."""

from __future__ import annotations

import calendar
import re
import time

from verify.tables import table

RESOLUTION_S = 1.0
"""Seconds: the log has whole seconds, so a phase may seem to end this much before the process started."""


def phases(log: list[str], began: float) -> dict[str, float]:
    """Return seconds from the start of the process to the end of each phase in the log, in order of time.

    Lines of earlier starts are ignored.

    Args:
        began: Start of the process in seconds since the epoch.
    """
    rows = table("start_phases")
    found: dict[str, float] = {}
    for phase in rows["phase"]:
        mark = re.compile(rows["prefix"] + phase["line"])
        last = max((_seconds(match["time"], began) for line in log if (match := mark.match(line))), default=None)
        if last is not None and last >= -RESOLUTION_S:
            found[phase["name"]] = max(0.0, last)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _seconds(written: str, began: float) -> float:
    """Return seconds from the start to a time of the log, which has no year: the nearest one counts."""
    year = time.localtime(began).tm_year
    moments = [
        time.mktime(time.strptime(f"{year + offset}-{written}", "%Y-%m-%d %H:%M:%S"))
        for offset in (-1, 0, 1)
        if not (written.startswith("02-29") and not calendar.isleap(year + offset))
    ]
    return min((moment - began for moment in moments), key=abs)
