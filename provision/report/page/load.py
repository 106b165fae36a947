"""Time to first token and tokens per second, for each class of hosts and number of requests at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from provision.report.layout import number
from provision.report.page.figures import FigureRow

CHECK = "serving.load"
COLUMNS = {
    "output": "tokens/s",
    "first token p50": "time to first token",
    "first token p99": "p99",
    "between tokens p50": "between tokens",
}
"""Figures of the check, without the number of requests, and what their columns are called."""
_NAME = re.compile(r"(.+), (\d+) at once")


def load_rows(figures: Iterable[FigureRow]) -> tuple[tuple[str, ...], ...]:
    """Return class, requests at once, and the columns; of several hosts the median and the range."""
    rows: dict[tuple[int, int], dict[str, str]] = {}
    for row in figures:
        name = _NAME.fullmatch(row.name) if row.check == CHECK else None
        if name and name[1] in COLUMNS:
            span = f" ({number(row.low.value)} to {number(row.high.value)})" if row.readings > 1 else ""
            shown = f"{number(row.middle)}{span} {'' if name[1] == 'output' else row.unit}".rstrip()
            rows.setdefault((row.hosts_class, int(name[2])), {})[name[1]] = shown
    return tuple(
        (str(number_), str(at_once), *(cells.get(column, "") for column in COLUMNS))
        for (number_, at_once), cells in sorted(rows.items())
    )
