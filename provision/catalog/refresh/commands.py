"""What the commands on the catalog do; they return what is to be printed."""

from __future__ import annotations

from datetime import UTC, datetime

from provision.catalog import overlay
from provision.catalog.check import all_rows, check
from provision.catalog.load import Catalog
from provision.catalog.refresh.index_wheels import Index
from provision.catalog.refresh.new_releases import COMMUNITY, look, write
from provision.core.errors import Exit


def check_tables() -> tuple[str, Exit]:
    """Whether the product's tables and the user's overlays hold together. Raises TableError for a file that cannot be read."""
    catalog = Catalog(overlays=overlay.read_all(overlay.folder()))
    problems = check(catalog)
    if problems:
        return "\n".join([*problems, f"{len(problems)} problems"]), Exit.RED
    found = list(all_rows(catalog))
    inferred = sum(row.inferred for _, row in found)
    tables = len({name for name, _ in found})
    lines = [f"{len(found)} rows in {tables} tables, each with its source; {inferred} hold an inferred value"]
    lines += [f"overlay {extra.path}: {sum(map(len, extra.tables.values()))} rows" for extra in catalog.overlays]
    return "\n".join(lines), Exit.OK


def refresh_tables() -> str:
    """Look for new releases on the user's index and write them to an overlay, where there are any.

    Raises TableError for an overlay that cannot be read, IndexUnreachableError and RangeError for an index that does not answer.
    """
    place = overlay.folder()
    catalog = Catalog(overlays=overlay.read_all(place))
    today = datetime.now(UTC).date().isoformat()
    index = Index()
    try:
        news = look(catalog, index, today=today)
    finally:
        index.close()
    lines = [f"new: {change}" for change in news.changes] + [f"left out: {why}" for why in news.left_out]
    if not news.rows:
        return "\n".join(
            [
                *lines,
                f"nothing to add: the catalog has every release of vllm, torch and {COMMUNITY} that your index serves",
            ]
        )
    return "\n".join([*lines, f"written to {write(news, place, today=today)}; ./firstlight plan reads it from now on"])
