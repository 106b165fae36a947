"""The checks of hosts as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from provision.core.models.records import CheckRecord
from verify.printable import printable
from verify.records import fold_skips


def checks_table(checks: Sequence[CheckRecord]) -> Table:
    """Return a table with one row a check; a check that did not pass has its remedy below the reason."""
    colours = {"ok": "green", "skip": "dim", "warn": "yellow", "fail": "red", "error": "red"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", overflow="fold", max_width=30)
    for heading in ("status", "check", "device"):
        table.add_column(heading, no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="fold")
    for row in fold_skips([check.model_dump() for check in checks]):
        passed = row["status"] in ("ok", "skip")
        reason = row["reason"] if passed or not row["remedy"] else f"{row['reason']}\nremedy: {row['remedy']}"
        cells = (row["host"] or "", row["id"], row["device"] or "", f"{row['seconds']:.2f}", reason)
        host, *rest = map(Text, map(printable, cells))  # text from a host is neither markup nor a terminal command
        table.add_row(host, Text(row["status"], style=colours[row["status"]]), *rest)
    return table
