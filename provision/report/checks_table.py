"""The checks of hosts as a table for a terminal: each one that did not pass, and a line for each family."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from provision.core.models.records import CheckRecord
from provision.report.group import SEVERITY, merge_equal_records
from provision.report.headlines import families
from verify.printable import printable

COLOURS = {"ok": "green", "skip": "dim", "warn": "yellow", "fail": "red", "error": "red"}


def checks_table(checks: Sequence[CheckRecord]) -> Table:
    """Return failures and warnings with their remedies, the worst first, then counts and figures of each family."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("status", "check"):
        table.add_column(heading, no_wrap=True)
    table.add_column("where", overflow="fold", max_width=30)
    table.add_column("result", overflow="fold")
    wrong = merge_equal_records([check for check in checks if check.status in ("warn", "fail", "error")])
    rows: list[tuple[str, str, str, str]] = [
        (
            check.status,
            check.id,
            " ".join(filter(None, (check.host, check.device))),
            f"{check.reason}\nremedy: {check.remedy}" if check.remedy else check.reason,
        )
        for check in sorted(wrong, key=lambda check: SEVERITY[check.status])
    ]
    rows += [(ended.split()[1].rstrip(","), family, ended, shown) for family, ended, shown in families(checks)]
    for row in rows:
        status, *cells = map(Text, map(printable, row))  # text from a host is neither markup nor a terminal command
        status.stylize(COLOURS[row[0]])
        table.add_row(status, *cells)
    return table
